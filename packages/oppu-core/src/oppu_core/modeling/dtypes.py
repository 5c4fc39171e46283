"""The types that a base's weights can have, and the forms that it can be asked in."""

from typing import Literal

Dtype = Literal["float32", "bfloat16", "float16"]
Quantize = Literal["nf4", "int8"]
PromptFormat = Literal["plain", "chat"]
PromptFormatOption = Literal["auto", "plain", "chat"]

"""The data types and quantizations of a base's weights."""

from typing import Literal

Dtype = Literal["float32", "bfloat16", "float16"]
Quantize = Literal["nf4", "int8"]

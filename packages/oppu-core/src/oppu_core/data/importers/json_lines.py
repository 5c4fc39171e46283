"""Parsing a line of JSON, with a reason if it cannot be parsed."""

import json
import re
from typing import Any

from oppu_core.data.importers.json_stream import LINE_DECODER
from oppu_core.data.rejected import Unusable

PYTHON = "looks like Python, not JSON; write it with json.dumps"
_PYTHON = re.compile(r"\s*(\[\s*)?[{(]\s*'")


def read_line(line: str) -> Any:
    """The JSON value of a line, with numbers as text.

    Raises:
        Unusable: it is not JSON.
    """
    try:
        return LINE_DECODER.decode(line)
    except json.JSONDecodeError as error:
        if looks_like_python(line):
            raise Unusable(PYTHON) from None
        raise Unusable("is not JSON", error.msg) from None
    except ValueError as error:
        raise Unusable("is not JSON with every name once", str(error)) from None
    except RecursionError:
        raise Unusable("is not JSON", "nested too deeply") from None


def looks_like_python(text: str) -> bool:
    """Whether a text looks like a dict as Python prints it."""
    return _PYTHON.match(text) is not None

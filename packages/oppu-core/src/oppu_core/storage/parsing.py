"""Our own files as dataclasses: values of JSON are checked against the types of the fields.

Three things are checked by hand instead: tasks' TOML files, which every command reads when it starts (it
would take half as long again) and whose messages are for their authors; rows of users
(:mod:`oppu_core.data.schema`), which come from anywhere; and lines of prediction files, of which there are
millions.
"""

from typing import Any, TypeVar

T = TypeVar("T")


_ADAPTERS: dict[type, Any] = {}  # making one takes a tenth of a second


def parse(kind: type[T], values: Any) -> T:
    """Make a dataclass from JSON values; lists become tuples where a field is one.

    Unknown fields are ignored, unless the dataclass, or one around it, forbids them in its
    ``__pydantic_config__``.

    Raises:
        ValueError: a value is missing or wrong; the message names its field, but not the file.
    """
    from pydantic import TypeAdapter, ValidationError  # not at the top: it takes a sixth of a second

    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    try:
        parsed: T = _ADAPTERS[kind].validate_python(values)
        return parsed
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the whole"
        raise ValueError(f"{field!r}: {first['msg']}") from error

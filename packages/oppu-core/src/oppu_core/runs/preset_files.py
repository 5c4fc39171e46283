"""Preset files: training settings of a base as TOML, as ``oppu study recipe`` writes them.

A file has the tables ``task_lora`` and ``personal`` with fields of
:class:`~oppu_core.training.config.TrainConfig`, e.g. ``personal.learning_rate = 1e-3``; what it leaves out is
as with ``--preset auto``. Settings of ``personal`` are a LoRA's; with another kind of adapter they are left
out.
"""

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args

from oppu_core.errors import ConfigError
from oppu_core.training.config import Peft, Preset, TrainConfig

KINDS = ("task_lora", "personal")


def read_preset(preset: str, peft: Peft = "lora") -> tuple[Preset, list[str]]:
    """A preset's name and further settings: ``--preset FILE`` is ``auto`` with the file's settings.

    Args:
        preset: The name of a preset, or the path of a file.
        peft: The kind of personal adapters.

    Returns:
        The name, and settings as ``--set`` has them.

    Raises:
        ConfigError: there is no such preset or file, or the file is not a preset.
    """
    if preset in get_args(Preset):
        return cast(Preset, preset), []
    path = Path(preset).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"There is no preset {preset!r}: choose {', '.join(get_args(Preset))}, or the file of a preset "
            "(`oppu study recipe` writes one)."
        )
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"--preset {path} cannot be read as TOML: {error}.") from error
    unknown = [name for name in tables if name not in KINDS or not isinstance(tables[name], dict)]
    if unknown or not tables:
        raise ConfigError(
            f"--preset {path} is no preset: it has {', '.join(unknown) or 'nothing'}; it should have the "
            f"tables {' and '.join(KINDS)}."
        )
    kinds = [kind for kind in KINDS if kind in tables and (kind != "personal" or peft == "lora")]
    return "auto", [
        f"{kind}.{field}={_text(value)}" for kind in kinds for field, value in tables[kind].items()
    ]


def preset_text(settings: Mapping[str, Mapping[str, Any]], comment: str) -> str:
    """A preset file's text.

    Args:
        settings: {"task_lora" or "personal": {field: value}}.
        comment: Where the settings come from; written above them.
    """
    fields = [field.name for field in dataclasses.fields(TrainConfig)]
    lines = [f"# {line}" for line in comment.splitlines()]
    for kind in KINDS:
        lines += ["", f"[{kind}]"]
        lines += [f"{name} = {_toml(settings[kind][name])}" for name in fields if name in settings[kind]]
    return "\n".join(lines) + "\n"


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _toml(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(f'"{one}"' for one in value) + "]"
    return str(value).lower() if isinstance(value, bool) else repr(value)

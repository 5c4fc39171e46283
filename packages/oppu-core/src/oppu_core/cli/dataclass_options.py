"""Passing options to commands as a whole: :class:`~oppu_core.runs.options.RunOptions` and the like.

A command declares ``options: RunOptions``; typer sees one option for each of its fields.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from oppu_core.runs.options import MORE
from oppu_core.runs.tracking import ReportTo

RunOption = Annotated[Path, typer.Option("--run", help="The run folder, e.g. runs/movies.")]
ReportToOption = Annotated[
    ReportTo,
    typer.Option(
        rich_help_panel=MORE,
        help="Also send training losses (no texts, no user ids) there, if it is installed.",
    ),
]


def with_options(
    command: Callable[..., None], like: Callable[..., Any] | None = None, **more: type
) -> Callable[..., None]:
    """A command with one option for every field of its parameters that are options as a whole.

    Such a parameter is annotated with a dataclass whose fields are :func:`oppu_core.runs.options.option`.

    Args:
        command: Called with the assembled options.
        like: The function whose parameters and docstring are shown; by default `command`.
        more: Further parameters of this kind, by name; they come last.
    """
    like = like or command
    whole: dict[str, Any] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(like).parameters.values():
        if dataclasses.is_dataclass(parameter.annotation):
            whole[parameter.name] = parameter.annotation
            parameters += _parameters(parameter.annotation)
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    for name, kind in more.items():
        whole[name] = kind
        parameters += _parameters(kind)

    @functools.wraps(like)
    def wrapper(**arguments: Any) -> None:
        given = {
            name: kind(
                **{
                    field.name: value
                    for field in dataclasses.fields(kind)
                    # The default on the command line (None) may differ from the field's, e.g. ().
                    if (value := arguments.pop(field.name)) is not None or field.default is None
                }
            )
            for name, kind in whole.items()
        }
        command(**arguments, **given)

    shown: Any = wrapper
    shown.__signature__ = inspect.Signature(parameters, return_annotation=None)
    shown.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapper


def _parameters(kind: Any) -> Iterator[inspect.Parameter]:
    for field in dataclasses.fields(kind):
        default = field.default
        if default is dataclasses.MISSING:
            default = inspect.Parameter.empty
        elif not isinstance(default, str | int | float | bool):
            default = None
        cli = field.metadata["cli"]
        yield inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=cli)

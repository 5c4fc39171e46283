"""The result of a study as data: sentences, one table and pictures. Nothing here trains, scores or writes."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Kind = Literal["text", "score", "signed", "interval", "signed_interval", "p", "count", "number", "bytes"]


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a study's table.

    Attributes:
        name: The key in the rows, and the column's name in the CSV file.
        title: Its heading for people, with its unit.
        kind: How its values are shown: ``score`` as .123, ``signed`` as +.123, an interval as [.1, .2], ``p``
            with a star below 0.05, ``number`` with three significant digits, ``bytes`` in kB.
        shown: Whether the terminal and the report show it; JSON and CSV have every column.
    """

    name: str
    title: str
    kind: Kind = "text"
    shown: bool = True


@dataclasses.dataclass(frozen=True)
class Table:
    """A study's table. A row is a mapping with every column's name as a key; missing values are None.

    Rows are grouped by the column `group` (mostly the task), whose value is their heading.
    """

    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    group: str = "task"


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture of a study.

    Attributes:
        name: Also the file's name: lower-case letters, digits, underscores and hyphens.
        label: A description for people who cannot see it.
        caption: What it shows and how to read it.
        figure: A matplotlib figure, made with :func:`oppu_eval.reporting.drawing.make_panels`.
    """

    name: str
    label: str
    caption: str
    figure: Any


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of a study.

    Attributes:
        findings: Sentences that say what the numbers show, or that they show nothing.
        table: Everything that was measured.
        pictures: At least one picture.
        notes: What readers have to know to read the table correctly.
        details: JSON values only for ``study.json`` (matrices, fits).
        pages: Further files: {name: text}, such as HTML pages.
    """

    findings: Sequence[str]
    table: Table
    pictures: Sequence[Picture]
    notes: Sequence[str] = ()
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    pages: Mapping[str, str] = dataclasses.field(default_factory=dict)

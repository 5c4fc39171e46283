"""What a study comes to: sentences, one table and pictures. Data; nothing here trains, scores or writes."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Kind = Literal["text", "score", "signed", "interval", "signed_interval", "p", "count", "number", "bytes"]


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a study's table.

    Attributes:
        name: The key in the rows, and the head of the column in the CSV file.
        title: What a person reads above it, with its unit.
        kind: How its values are shown: ``score`` as .123, ``signed`` as +.123, an interval as [.1, .2], ``p``
            with a star below 0.05, ``number`` with three digits that count, ``bytes`` in kB.
        shown: Whether it stands in the terminal and in the report; JSON and CSV have every column.
    """

    name: str
    title: str
    kind: Kind = "text"
    shown: bool = True


@dataclasses.dataclass(frozen=True)
class Table:
    """A study's table: a row is a mapping with every column's name as a key; None where there is nothing.

    Rows with the same `group` (the name of a column, mostly the task's) stand together below its value.
    """

    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    group: str = "task"


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture of a study.

    Attributes:
        name: Also the file's name: lower-case letters, digits, underscores and hyphens.
        label: What it shows, for whoever cannot see it.
        caption: What it shows and how to read it.
        figure: A matplotlib figure, made with :func:`oppu_eval.reporting.drawing.make_panels`.
    """

    name: str
    label: str
    caption: str
    figure: Any


@dataclasses.dataclass(frozen=True)
class Result:
    """What a study came to.

    Attributes:
        findings: What the numbers say, a sentence each, plainly also where they say nothing.
        table: Everything measured.
        pictures: At least one.
        notes: What a reader has to know to read the table rightly.
        details: JSON values for ``study.json`` alone (matrices, fits).
        pages: Further pages, {file name: HTML}.
    """

    findings: Sequence[str]
    table: Table
    pictures: Sequence[Picture]
    notes: Sequence[str] = ()
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    pages: Mapping[str, str] = dataclasses.field(default_factory=dict)

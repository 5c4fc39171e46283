"""Studies (``study.json``) as people see them: in the terminal, and in a report."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from oppu_core.errors import DataError
from oppu_core.storage.files import read_json, write_text
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from oppu_eval.files import REPORT
from oppu_eval.reporting.table import p_text, signed
from oppu_eval.reporting.templating import render_page

FORMAT = 1
STUDIES = (
    "main",
    "shift",
    "activity",
    "k",
    "format",
    "peft",
    "similarity",
    "cost",
    "cases",
)  # in the paper's order


STUDY_FILE = "study.json"


def described(facts: Mapping[str, Any]) -> str:
    """In a line: seed, settings and versions."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    data = ", ".join(facts["data"])
    return (
        f"Data {data}; base {facts['base']}; seed {facts['seed']}, settings {facts['settings']}, {versions}."
    )


def _score(value: float) -> str:
    """Three decimals, a true minus; what rounds to zero has no sign."""
    return signed(value).replace("+", "")


_SHOW: Mapping[str, Callable[[Any], str]] = {
    "score": _score,
    "signed": signed,
    "interval": lambda value: f"[{_score(value[0])}, {_score(value[1])}]",
    "signed_interval": lambda value: f"[{signed(value[0])}, {signed(value[1])}]",
    "p": lambda value: f"{p_text(value)}{'*' if value < 0.05 else ''}",
    "count": lambda value: f"{value:,}",
    "number": lambda value: f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}",
    "bytes": lambda value: f"{value / 1000:,.1f} kB",
    "text": lambda value: " / ".join(map(str, value)) if isinstance(value, list | tuple) else str(value),
}


def shown_text(column: Mapping[str, Any], value: Any) -> str:
    """A value as people read it."""
    return "–" if value is None else _SHOW[column["kind"]](value)


def grouped(table: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """The rows that people are shown, by the value of the group column."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in table["rows"]:
        if row["shown"]:
            groups.setdefault(str(row[table["group"]]), []).append(row)
    return groups


def group_title(values: Mapping[str, Any], group: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """What stands above a group's rows; how many users, where it is the same for all of them."""
    title = str(values["titles"].get(group, group))
    return f"{title}, {rows[0]['users']:,} users" if _alike(rows) else title


def _alike(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether there is a number of users, and it is the same for all rows."""
    users = {row.get("users") for row in rows}
    return len(users) == 1 and None not in users


def shown_columns(table: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The columns that people are shown, without those that say the same, or nothing, in all these rows."""
    return [
        column
        for column in table["columns"]
        if column["shown"]
        and column["name"] != table["group"]
        and not (column["name"] == "users" and _alike(rows))
        and any(row[column["name"]] is not None for row in rows)
    ]


def merged(table: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """The shown columns as people see them: a 95 % interval stands below its value, a p-value beside it."""
    columns: list[list[Mapping[str, Any]]] = []
    for column in shown_columns(table, rows):
        if columns and (column["kind"] == "p" or column["name"].endswith("ci95")):
            columns[-1].append(column)
        else:
            columns.append([column])
    return columns


def cell(columns: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> tuple[str, str]:
    """(value with its p-value, interval); the interval is empty where there is none."""
    first, *others = columns
    value, below = shown_text(first, row[first["name"]]), ""
    for column in others:
        if row[column["name"]] is None:
            continue
        if column["kind"] == "p":
            value += " " + shown_text(column, row[column["name"]])
        else:
            below = shown_text(column, row[column["name"]])
    return value, below


def terminal(values: Mapping[str, Any]) -> RenderableType:
    """A study (``study.json``) for the terminal: what it says, its table, its notes."""
    parts: list[RenderableType] = [Text(values["title"], style="bold"), Text(values["question"] + "\n")]
    for group, rows in grouped(values["table"]).items():
        title = Text(group_title(values, group, rows), style="bold")
        table = RichTable(
            title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False
        )
        columns = merged(values["table"], rows)
        for first, *_ in columns:
            right = first["kind"] != "text"
            table.add_column(Text(first["title"]), justify="right" if right else "left", overflow="fold")
        for row in rows:
            table.add_row(*(_cell(cell(column, row)) for column in columns))
        parts += [table, ""]
    parts += [Text(f"• {text}") for text in values["findings"]]
    small = [*values["notes"], values["paper"], described(values["provenance"])]
    parts.append(Text("\n" + "\n".join(small), style="dim"))
    return Group(*parts)


def _cell(texts: tuple[str, str]) -> Text:
    value, below = texts
    # What a user wrote must not steer the terminal.
    value = "".join(char if char.isprintable() else " " for char in value)
    text = Text(value, style="dim" if value == "–" else "")
    return text.append("\n" + below, style="dim") if below else text


def study_views(folder: Path, root: Path) -> list[dict[str, Any]]:
    """What the report's template needs of the studies in `folder`, in the paper's order.

    Args:
        folder: With a folder for each study.
        root: The report's; links are relative to it.

    Raises:
        DataError: a file is damaged, or no study's.
    """
    order = {name: place for place, name in enumerate(STUDIES)}
    files = sorted(folder.glob(f"*/{STUDY_FILE}"), key=lambda file: order.get(file.parent.name, len(order)))
    views = []
    for file in files:
        try:
            views.append(_view(read_json(file), file.parent, root))
        except (DataError, KeyError, TypeError, ValueError, AttributeError, OSError) as error:
            raise DataError(
                f"{file} cannot be shown ({error}). Run `oppu study {file.parent.name} …` again, or remove "
                f"{file.parent}."
            ) from error
    return views


def _view(values: Mapping[str, Any], folder: Path, root: Path) -> dict[str, Any]:
    from markupsafe import Markup

    if values["format"] != FORMAT:
        raise ValueError(f"its format is {values['format']}, this version reads {FORMAT}")
    groups = [
        {
            "title": group_title(values, group, rows),
            "columns": [first for first, *_ in columns],
            "rows": [[cell(column, row) for column in columns] for row in rows],
        }
        for group, rows in grouped(values["table"]).items()
        for columns in [merged(values["table"], rows)]
    ]
    pictures = [
        {**picture, "svg": Markup((folder / f"{picture['name']}.svg").read_text(encoding="utf-8"))}
        for picture in values["pictures"]
    ]
    return {
        **values,
        "groups": groups,
        "pictures": pictures,
        "links": [(folder / name).relative_to(root).as_posix() for name in (*values["pages"], "table.csv")],
        "about": described(values["provenance"]),
        "asked": ", ".join(f"{name} {value}" for name, value in values["options"].items()),
    }


def write_studies_report(folder: Path) -> Path:
    """Write the page of all studies of a folder."""
    path = folder / REPORT
    write_text(path, render_page("studies.html.j2", studies=study_views(folder, folder)))
    return path

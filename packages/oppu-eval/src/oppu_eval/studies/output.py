"""A study's results as files, as a table in the terminal, and as a part of the report."""

import csv
import importlib.metadata
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oppu_core.storage.files import content_id, write_bytes, write_json, write_text

from oppu_eval.reporting.drawing import png_bytes, svg_text
from oppu_eval.reporting.study_views import FORMAT, STUDY_FILE, described
from oppu_eval.studies.result import Result, Table
from oppu_eval.studies.study import Study, options_of

PACKAGES = ("oppu-eval", "matplotlib", "scikit-learn", "scipy")  # beside those of runs


def write_study(
    folder: Path, study: Study, result: Result, facts: Mapping[str, Any], titles: Mapping[str, str]
) -> None:
    """Write ``study.json``, ``table.csv`` and the pictures as SVG and PNG.

    Args:
        folder: The study's folder.
        study: The study.
        result: Its result.
        facts: The seed, and the runs with their settings, data and versions.
        titles: Titles for the values of the table's group column.
    """
    about = described(facts)
    for picture in result.pictures:
        name = f"{study.name}-{picture.name}"
        svg = svg_text(picture.figure, f"study-{name}", picture.label, about)
        write_text(folder / f"{picture.name}.svg", svg)
        write_bytes(folder / f"{picture.name}.png", png_bytes(picture.figure, f"{picture.label}. {about}"))
    for name, page in result.pages.items():
        write_text(folder / name, page)
    write_text(folder / "table.csv", table_csv(result.table, facts))
    table = result.table
    values = {
        "format": FORMAT,
        "study": study.name,
        "title": study.title,
        "question": study.question,
        "paper": study.paper,
        "options": options_of(study),
        "findings": list(result.findings),
        "notes": list(result.notes),
        "table": {
            "group": table.group,
            "columns": [vars(column) for column in table.columns],
            "rows": [{column.name: row.get(column.name) for column in table.columns} | _shown(row)
                     for row in table.rows],
        },
        "titles": dict(titles),
        "pictures": [
            {"name": picture.name, "label": picture.label, "caption": picture.caption}
            for picture in result.pictures
        ],
        "pages": list(result.pages),
        "details": dict(result.details),
        "provenance": dict(facts),
    }  # fmt: skip
    write_json(folder / STUDY_FILE, values)


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"shown": row.get("shown", True)}


def facts_of(runs: Mapping[str, Any], seed: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """Facts for every output: the seed, the runs, their versions, and a short hash of all settings."""
    versions = {
        **next(iter(runs.values()))["versions"],
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }
    plain = {name: {k: v for k, v in run.items() if k != "versions"} for name, run in runs.items()}
    settings = content_id({"runs": plain, "options": dict(options)})[:12]
    configs = [run["config"] for run in runs.values()]
    return {
        "seed": seed,
        "settings": settings,
        "versions": versions,
        "data": sorted({folder for config in configs for folder in config["data"].values()}),
        "base": _base_name(configs[0]["model"]),
        "runs": dict(runs),
    }


def _base_name(model: str) -> str:
    """A base's name; for a folder, only the last part of its path."""
    return Path(model).name if Path(model).is_absolute() else model


def table_csv(table: Table, facts: Mapping[str, Any]) -> str:
    """The table as CSV: all columns, intervals as two, with seed, settings and versions in each row."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head: list[str] = []
    for column in table.columns:
        interval = column.kind in ("interval", "signed_interval")
        head += [f"{column.name}_low", f"{column.name}_high"] if interval else [column.name]
    versions = "; ".join(f"{name} {version}" for name, version in facts["versions"].items())
    writer.writerow([*head, "seed", "settings", "versions"])
    for row in table.rows:
        cells: list[Any] = []
        for column in table.columns:
            value = row.get(column.name)
            if column.kind in ("interval", "signed_interval"):
                cells += ["", ""] if value is None else list(value)
            elif isinstance(value, list | tuple):
                cells.append(_safe("/".join(map(str, value))))
            else:
                cells.append(_safe(value))
        writer.writerow([*cells, facts["seed"], facts["settings"], versions])
    return out.getvalue()


def _safe(value: Any) -> Any:
    """A value that spreadsheets do not take for a formula; None becomes empty."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return "" if value is None else value

"""HTML from templates; texts by users are escaped."""

import functools
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


@functools.cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("oppu_demo"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, **values: Any) -> str:
    """Fill in a template."""
    # Lone surrogates (possible in JSON texts) cannot be sent as UTF-8.
    return _environment().get_template(template).render(**values).encode("utf-8", "replace").decode("utf-8")


def problem(error: object) -> str:
    """An error message."""
    return render("error.html.j2", problem=str(error))


def notice(text: str) -> str:
    """A placeholder where there is nothing yet."""
    return render("notice.html.j2", text=text)


def styles() -> str:
    """The page's style sheets."""
    folder = files("oppu_demo")
    names = sorted(file.name for file in folder.iterdir() if file.name.endswith(".css"))
    return "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names)

"""HTML pages from this package's templates: self-contained, without scripts, everything escaped."""

from typing import Any

from oppu_eval.reporting.table import number, p_text, signed


def render_page(template: str, **values: Any) -> str:
    """A whole page; the same values give the same text.

    Args:
        template: A file of ``templates/``.
        values: What it needs; texts are escaped unless they are :class:`markupsafe.Markup`.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("oppu_eval.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, signed=signed, p_text=p_text)
    page = environment.get_template(template).render(values)
    # Lone surrogates (possible in JSON texts) cannot be written as UTF-8.
    return page.encode("utf-8", "replace").decode("utf-8")

"""How it works, for people who have never heard of adapters: six sentences and a picture, as HTML."""

from oppu_demo.templating import render


def about_view() -> str:
    """The page "How it works"."""
    return render("about.html.j2")

"""Views as HTML, without controls."""

"""The page's tabs, each with its controls and view."""

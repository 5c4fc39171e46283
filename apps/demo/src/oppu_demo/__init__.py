"""The web page: personal answers side by side, live."""

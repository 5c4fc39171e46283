"""A run: its configuration and folder, its variants, their jobs, and answers."""

"""Runs: configuration and folder, variants, their jobs, and answers."""

"""Importing files in various formats into a dataset."""

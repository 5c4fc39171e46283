"""Bases, tokenizers and adapters; packed rows, many adapters at once, and generation."""

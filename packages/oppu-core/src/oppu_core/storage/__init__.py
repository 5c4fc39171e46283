"""Atomic file writing, and the content-addressed store of trained weights."""

# Shorthands for the commands in CONTRIBUTING.md.

setup:
    uv sync

lint:
    uv run ruff check
    uv run ruff format --check

types:
    uv run mypy

imports:
    uv run lint-imports

unit:
    uv run pytest -m unit

test *arguments:
    uv run pytest {{ arguments }}

check: lint imports types unit

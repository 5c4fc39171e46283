# Shorthands for the commands in CONTRIBUTING.md.

setup:
    uv sync

# The versions that a sync resolves to, with hashes, for whoever installs with pip.
lock:
    uv export -q --no-dev --no-emit-workspace --no-header --no-annotate -o requirements.lock

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

"""Exporting a visitor's adapter as the zip that `oppu adapters export` would write."""

import dataclasses
from pathlib import Path

from oppu_core.errors import ConfigError
from oppu_core.ownership.adapter_export import bundle_of
from oppu_core.ownership.adapters import open_store
from oppu_core.ownership.bundle import write_bundle
from oppu_core.runs.variants import find_variant

from oppu_demo.engine import Engine
from oppu_demo.sessions import Session


def write_zip(engine: Engine, session: Session, variant: str) -> Path:
    """Write a session's adapter of a variant into its folder.

    Raises:
        ConfigError: the session is over, or has no such adapter.
        StoreError: the task LoRA that it was trained on is not intact.
    """
    with session.held():
        own = session.own
        if own is None or variant not in own.adapters:
            raise ConfigError("There is no adapter of yours to download; train one first.")
        facts = {**dataclasses.asdict(own.facts[variant]), "examples": len(own.user.history)}
        with open_store(engine.run.store_path) as store:
            work = find_variant(engine.run, own.task, variant, personal=True)
            bundle = bundle_of(store, work, own.user, own.adapters[variant], facts)
        path = session.folder / f"my-adapter-{variant}.zip"  # a variant's name, no text of the visitor's
        write_bundle(bundle, path)
        return path

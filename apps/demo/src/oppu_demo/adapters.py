"""A person's adapters as the page tells of them: those in the run's store, and a visitor's own."""

import contextlib
import dataclasses

from oppu_core.data.types import User
from oppu_core.storage.store import Store
from oppu_core.storage.weights import WEIGHTS_FILE

from oppu_demo.engine import Engine
from oppu_demo.sessions import Session
from oppu_demo.views.person import Adapter


def trained(session: Session) -> list[Adapter]:
    """Those that a visitor has just trained."""
    if (own := session.own) is None:
        return []
    return [
        Adapter(
            variant,
            dataclasses.asdict(own.facts[variant]),
            sum(tensor.numel() * tensor.element_size() for tensor in state.values()),
            losses=own.losses[variant],
        )
        for variant, state in own.adapters.items()
    ]


def stored(engine: Engine, task: str, user: User) -> list[Adapter]:
    """Those of one of the run's users, or why there is none."""
    adapters = []
    with contextlib.closing(Store(engine.run.store_path)) as store:
        for variant, key in engine.keys(task, user).items():
            entry = next((one for one in store.entries(key.config_id) if one.folder == key.folder), None)
            if entry is None:
                adapters.append(Adapter(variant, problem="not trained yet"))
            elif entry.status != "ok":
                adapters.append(Adapter(variant, problem=entry.reason or "training failed"))
            else:
                file = store.path / entry.folder / WEIGHTS_FILE
                size = file.stat().st_size if file.exists() else None
                adapters.append(Adapter(variant, entry.facts, size))
    return adapters

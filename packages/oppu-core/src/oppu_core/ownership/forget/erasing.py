"""Removing the traces of a user."""

import contextlib
from pathlib import Path

from oppu_core.data.dataset import Dataset
from oppu_core.ownership.forget.finding import Traces
from oppu_core.ownership.forget.pending import finish, write_pending
from oppu_core.ownership.forget.workspace import Workspace, full_name
from oppu_core.runs.run import follow_data
from oppu_core.storage.store import Store


def erase(space: Workspace, traces: Traces) -> None:
    """Remove all traces that were found; if killed anywhere, the same call finishes the work."""
    pending = traces.pending
    write_pending(space.folder, pending)
    for trace in traces.found:
        trace.remove()
    for path in space.stores:
        with contextlib.closing(Store(path)) as store:
            store.remove([])  # rows deleted by a killed call may still be in the file
    for run in space.runs:
        moved = [(task, data) for name, task, data in pending.runs if name == full_name(run.path)]
        if moved or full_name(run.path) in pending.given_profiles:
            follow_data(run, {task: Dataset.open(Path(data)).fingerprint for task, data in moved})
    left = [[full_name(base.parent.parent), base.name] for base, _ in traces.kept]
    finish(space.folder, pending.user_id, left)

"""Forgetting a user: removing everything that a workspace holds of them or made from them.

Traces are first found (:func:`find_traces`), then removed (:func:`erase`). What a half-cleaned workspace
could no longer tell (which runs used a dataset, which task LoRAs have seen the user) is recorded before
anything changes, so that the same call finishes a killed one. A salted, slow hash of the user's id stays in
``forgotten.json``, to tell "nothing is left" from a misspelt id. Other packages report their traces through
:mod:`oppu_core.ownership.traces`.
"""

from oppu_core.ownership.forget.erasing import erase
from oppu_core.ownership.forget.finding import Traces, find_traces
from oppu_core.ownership.forget.workspace import Workspace, open_workspace

__all__ = ["Traces", "Workspace", "erase", "find_traces", "open_workspace"]

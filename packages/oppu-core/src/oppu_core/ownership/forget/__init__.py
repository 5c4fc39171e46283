"""Forget a user: everything that a workspace holds of them or made of them.

First comes what there is (:func:`find_traces`), then it is removed (:func:`erase`). What a half-cleaned
workspace cannot tell any more (which runs stood on a dataset, which task LoRAs have seen the user) is noted
before anything changes, so that the same call finishes a killed one. What stays is a salted, slow hash of the
user's id in ``forgotten.json``: it tells "nothing is left" from a misspelt id. What other packages keep of a
user they tell by :mod:`oppu_core.ownership.traces`.
"""

from oppu_core.ownership.forget.erasing import erase
from oppu_core.ownership.forget.finding import Traces, find_traces
from oppu_core.ownership.forget.workspace import Workspace, open_workspace

__all__ = ["Traces", "Workspace", "erase", "find_traces", "open_workspace"]

"""The plan of who is trained together: fixed before training, recorded, and followed again after a kill.

A user's adapter depends on the others of its cohort only by floating-point rounding, so that the same plan
gives the same bytes. A cohort is closed: its users start together, and leave when they are done.
"""

import dataclasses
import itertools
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from oppu_core.errors import DataError
from oppu_core.storage.files import read_jsonl, write_jsonl

if TYPE_CHECKING:
    from oppu_core.modeling.packing import TokenizedExample
    from oppu_core.training.cohort import Cohort

# More tokens per step make training no faster (benchmarks/training.py); on a GPU, memory is the limit.
ENOUGH_TOKENS = {"cpu": 4096}
MAX_USERS = 64
MEMORY_SHARE = 0.5  # of free memory; the rest is for temporary tensors of a step


@dataclasses.dataclass(frozen=True)
class CohortPlan:
    """The recorded cohorts of one variant of a run.

    Attributes:
        path: A file of JSON lines {variant, cohort, user_id, folder}; None keeps no record.
        variant: The variant.
        size: Users per cohort; None follows the record, and decides by free memory for the rest.
    """

    path: Path | None = None
    variant: str = ""
    size: int | None = None

    def cohorts(
        self,
        missing: Mapping[str, tuple[str, int]],
        failed: Collection[str],
        present: Collection[str],
        auto: Callable[[], int],
    ) -> list[list[str]]:
        """The cohorts to train, as the adapters' folders in the store; the plan is recorded.

        Args:
            missing: {folder: (user id, amount of training)} of adapters that the store does not have.
            failed: Those of `missing` that failed before: they are tried again, alone.
            present: Adapters that the store has; they are trained again with an unfinished cohort.
            auto: Finds the size of new cohorts if `size` is None.

        Raises:
            DataError: the record cannot be read.
        """
        cohorts: list[list[str]] = []
        recorded: set[str] = set()
        rows: list[dict[str, Any]] = []
        others: list[dict[str, Any]] = []
        for row in self._read():
            (rows if row["variant"] == self.variant else others).append(row)
        for _, group in itertools.groupby(rows, key=lambda row: row["cohort"]):
            folders = [row["folder"] for row in group]
            again = any(one in missing and one not in failed for one in folders)
            if self.size is None or not again or len(folders) <= self.size:
                recorded.update(folders)
                cohorts.append([one for one in folders if one in missing or (again and one in present)])
        rows = [row for row in rows if row["folder"] in recorded]
        # Users with most to train first, so that lack of memory shows at once; similar users together, as
        # they finish at the same time.
        new = sorted((one for one in missing if one not in recorded), key=lambda one: (-missing[one][1], one))
        number = max((row["cohort"] for row in rows), default=-1) + 1
        size = (self.size or auto()) if new else 1
        for start in range(0, len(new), size):
            cohorts.append(new[start : start + size])
            rows += [
                {"variant": self.variant, "cohort": number, "user_id": missing[one][0], "folder": one}
                for one in cohorts[-1]
            ]
            number += 1
        if self.path and new:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_jsonl(self.path, [*others, *rows])
        return [cohort for cohort in cohorts if any(one in missing for one in cohort)]

    def split(self, folders: Sequence[str]) -> list[list[str]]:
        """Make two cohorts of one that is too large; the plan is recorded.

        Raises:
            DataError: the record cannot be read.
        """
        halves = [list(folders[: len(folders) // 2]), list(folders[len(folders) // 2 :])]
        if self.path:
            rows = self._read()
            number = max((row["cohort"] for row in rows if row["variant"] == self.variant), default=-1) + 1
            second = set(halves[1])
            mine = [row for row in rows if row["variant"] == self.variant and row["folder"] in second]
            rest = [row for row in rows if not (row["variant"] == self.variant and row["folder"] in second)]
            write_jsonl(self.path, [*rest, *({**row, "cohort": number} for row in mine)])
        return halves

    def _read(self) -> list[dict[str, Any]]:
        if self.path is None or not self.path.exists():
            return []
        advice = "Remove it, and start the command again."
        try:
            rows = read_jsonl(self.path)
        except DataError as error:
            raise DataError(f"{error} {advice}") from error
        types = {"variant": str, "cohort": int, "user_id": str, "folder": str}
        for number, row in enumerate(rows, 1):
            if not (
                isinstance(row, dict) and all(isinstance(row.get(key), kind) for key, kind in types.items())
            ):
                raise DataError(f"{self.path}, line {number}: not of a plan of cohorts. {advice}")
        return rows


def auto_size(cohort: "Cohort", heaviest: "Sequence[TokenizedExample]") -> int:
    """How many users to train at once: as many as fit into free memory, but no more than make it faster.

    Args:
        cohort: Trains them.
        heaviest: The largest batch of all users, of which the memory is measured.
    """
    import torch  # not at the top: plans are read where nothing is trained

    if not heaviest:
        return 1
    tokens, kept = cohort.measure(heaviest)
    device = cohort.device
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free = torch.cuda.mem_get_info(device)[0] + cached
    else:
        free = psutil.virtual_memory().available
    by_memory = int(MEMORY_SHARE * free / max(1, kept))
    by_tokens = ENOUGH_TOKENS.get(device.type, sys.maxsize) // tokens
    return max(1, min(by_memory, by_tokens, MAX_USERS))

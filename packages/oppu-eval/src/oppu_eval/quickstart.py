"""The quickstart: the whole comparison on the sample world, sized to end in about two minutes."""

from pathlib import Path

from oppu_core.data.dataset import MANIFEST, write_dataset
from oppu_core.data.sample import GRAMMARS, sample_users
from oppu_core.tasks import get_task

EXAMPLE = (
    "Iris Vance is a nurse in Greyford. The state listens in every room. "
    "It retells the real case of a missing pilot. You will discuss it for days."
)
USERS = 10
OTHERS = 30
HISTORY = (20, 40)
QUERIES = 10
SETTINGS = ["personal.epochs=4"]  # a little less than the preset, for a result in two minutes


def quickstart_data(folder: Path) -> list[Path]:
    """The sample datasets of a quickstart, written once."""
    paths = []
    for name in GRAMMARS:
        path = folder / name
        if not (path / MANIFEST).exists():
            users = sample_users(
                get_task(name), test_users=USERS, other_users=OTHERS, history=HISTORY, queries=QUERIES
            )
            write_dataset(path, get_task(name), users, {"kind": "sample world", "for": "quickstart"})
        paths.append(path)
    return paths

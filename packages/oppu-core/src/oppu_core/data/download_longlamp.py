"""Downloading LongLaMP's Parquet files from the Hugging Face hub, whose client resumes what was interrupted.

``HF_ENDPOINT``, ``HF_TOKEN`` and the token of ``hf auth login`` are respected.
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from oppu_core.data.download import LampSplit
from oppu_core.data.schema import shown
from oppu_core.errors import ConfigError, DataError
from oppu_core.storage.hub_errors import hub_errors
from oppu_core.tasks.task import Task

REPOSITORY = "LongLaMP/LongLaMP"
LONGLAMP_PARTS = ("train", "val", "test")


def download_longlamp(
    task: Task, split: LampSplit, parts: Sequence[str], folder: Path, endpoint: str | None = None
) -> Path:
    """Download the files of a configuration; complete files are kept.

    Args:
        task: One of LongLaMP's tasks.
        split: By time (LongLaMP calls it temporal) or by user.
        parts: Some of :data:`LONGLAMP_PARTS`.
        folder: Where the configuration's folder goes.
        endpoint: The hub's address; None takes ``HF_ENDPOINT``.

    Returns:
        The configuration's folder.

    Raises:
        ConfigError: an unknown part.
        DataError: the repository lacks a part, or the disk refuses.
        HubError: the hub refuses, or cannot be reached.
    """
    from huggingface_hub import HfApi

    if not parts or (unknown := [part for part in parts if part not in LONGLAMP_PARTS]):
        problem = f"There is no part {shown(unknown[0])}" if parts else "No part was named"
        raise ConfigError(f"{problem}; parts are {', '.join(LONGLAMP_PARTS)}.")
    config = f"{task.longlamp_config}_{'temporal' if split == 'time' else 'user'}"
    api = HfApi(endpoint=endpoint)
    with hub_errors(REPOSITORY, api.endpoint):
        info = api.dataset_info(REPOSITORY)
        files = [PurePosixPath(file.rfilename) for file in info.siblings or []]
        for part in parts:
            wanted = [file for file in files if file.match(f"{config}/{part}-*.parquet")]
            if not wanted:
                raise DataError(f"{REPOSITORY} on {api.endpoint} has no {config}/{part}-*.parquet.")
            for file in wanted:
                try:
                    saved = api.hf_hub_download(
                        REPOSITORY, str(file), repo_type="dataset", revision=info.sha, local_dir=folder
                    )
                except OSError as error:
                    if error.filename is None:  # the network's
                        raise
                    raise DataError(f"{folder} cannot be written: {error.strerror}.") from error
    return Path(saved).parent

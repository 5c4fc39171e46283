"""Pushing adapters to the Hugging Face hub and pulling them: a private repository of six files.

``HF_ENDPOINT``, ``HF_TOKEN`` and the token of ``hf auth login`` are respected. Pulls are checked like files.
"""

import tempfile
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import disable_progress_bars, validate_repo_id  # type: ignore[attr-defined]

from oppu_core.data.schema import shown
from oppu_core.errors import ConfigError
from oppu_core.ownership.bundle import NAMES, Bundle, Entry, find_files, is_litter, read_bundle
from oppu_core.storage.hub_errors import hub_errors


def check_repo_name(repo: str, hidden: str | None = None) -> None:
    """Refuse names that are not ORG/NAME, or that reveal the user's id.

    Args:
        repo: The repository.
        hidden: The user's id; None if it may be revealed.

    Raises:
        ConfigError: the name is refused.
    """
    try:
        validate_repo_id(repo)
        if repo.count("/") != 1:
            raise HFValidationError("an organization or user is missing")
    except HFValidationError as error:
        problem = str(error).partition("\n")[0].rstrip(".")
        raise ConfigError(f"{shown(repo)} is no name of a repository, ORG/NAME: {problem}.") from error
    if hidden and hidden.casefold() in repo.casefold():
        raise ConfigError(
            f"The name {repo} contains the user's id {shown(hidden)}, which whoever sees the repository "
            "could read. Choose another name, or say --with-user-id."
        )


def push(bundle: Bundle, repo: str, *, public: bool = False, endpoint: str | None = None) -> str:
    """Upload an adapter in one commit; if the repository does not exist, it is made, private by default.

    Args:
        bundle: The exported adapter.
        repo: ORG/NAME.
        public: Whether the repository is public.
        endpoint: The hub's address; None takes ``HF_ENDPOINT``.

    Returns:
        The repository's address.

    Raises:
        ConfigError: there is no token; the repository is public although `public` is false, or holds
            something else.
        HubError: the hub refuses, or cannot be reached.
    """
    check_repo_name(repo)
    if get_token() is None:
        raise ConfigError("No token for the Hugging Face hub: set HF_TOKEN, or log in with `hf auth login`.")
    api = HfApi(endpoint=endpoint)
    disable_progress_bars()
    with hub_errors(repo, api.endpoint):
        try:
            info = api.model_info(repo)
        except RepositoryNotFoundError:
            api.create_repo(repo, private=not public)
            info = api.model_info(repo)
        # Checked even if it was just made: what is uploaded publicly cannot be taken back.
        if not public and info.private is not True:
            raise ConfigError(
                f"{repo} is public, and this is one person's adapter. Make the repository private or choose "
                "another; or say --public."
            )
        names = sorted(file.rfilename for file in info.siblings or [])
        strange = [name for name in names if name not in NAMES and not is_litter(name)]
        if strange:
            raise ConfigError(
                f"{repo} holds something else ({shown(strange[0])}); choose another repository."
            )
        api.create_commit(
            repo,
            [CommitOperationAdd(name, bundle[name]) for name in sorted(bundle)],
            commit_message="Personal adapter, exported by oppu",
            parent_commit=info.sha,
        )
    return f"{api.endpoint}/{repo}"


def pull(repo: str, *, endpoint: str | None = None) -> Bundle:
    """Download an adapter: the files of the format, of one commit, and nothing else.

    Args:
        repo: ORG/NAME.
        endpoint: The hub's address; None takes ``HF_ENDPOINT``.

    Raises:
        ConfigError: `repo` is not a repository's name.
        DataError: the repository is not an exported adapter.
        HubError: the hub refuses, or cannot be reached.
    """
    check_repo_name(repo)
    api = HfApi(endpoint=endpoint)
    disable_progress_bars()
    # In a temporary folder, so that nothing of a person's adapter stays in the hub's cache.
    with tempfile.TemporaryDirectory(prefix="oppu-") as name, hub_errors(repo, api.endpoint):
        info = api.model_info(repo, files_metadata=True)
        entries = (Entry(file.rfilename, file.size or 0) for file in info.siblings or [])
        for place in find_files(entries, repo).values():
            api.hf_hub_download(repo, place, revision=info.sha, local_dir=name)
        return read_bundle(Path(name), repo)

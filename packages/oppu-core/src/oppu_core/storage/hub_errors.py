"""What the Hugging Face hub's client raises, as one line. Knows nothing of what is pushed or pulled."""

import contextlib
from collections.abc import Iterator
from typing import Any

from huggingface_hub import get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

from oppu_core.errors import HubError, OppuError


@contextlib.contextmanager
def hub_errors(repo: str, endpoint: str) -> Iterator[None]:
    """Turn the many kinds of exceptions of the hub's client into one line."""
    try:
        yield
    except OppuError:
        raise
    except OfflineModeIsEnabled as error:
        raise HubError("HF_HUB_OFFLINE is set, so the hub is not asked; unset it.") from error
    except HfHubHTTPError as error:
        status = _status(error)
        what = {
            401: "does not know you (401): is the token in HF_TOKEN right, and may it see the repository?",
            403: "forbids it (403): the token needs write access to push, and read access to pull.",
            404: "knows no such repository, or hides it from you (404): is the name right? A token set?",
            409: "refuses (409): the repository exists already or was changed just now. Try again.",
        }.get(status, f"answers with an error ({status}): {_first_line(error)}")
        if isinstance(error, RepositoryNotFoundError) and status == 401 and get_token() is None:
            what = "knows no such repository, or hides it from you: set HF_TOKEN if it is private."
        raise HubError(f"{repo}: the hub {endpoint} {what}") from error
    except Exception as error:  # connection, proxy, TLS, a broken response: the client raises many kinds
        raise HubError(
            f"{repo}: the hub {endpoint} cannot be used: {type(error).__name__}: {_first_line(error)}"
        ) from error


def _status(error: HfHubHTTPError) -> Any:
    return getattr(error.response, "status_code", None)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")

"""Effects that can be planted into the sample world's test users, for studies to find."""

import dataclasses
from collections.abc import Sequence

from oppu_core.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Planted:
    """Effects planted into the test users' data; none by default.

    Attributes:
        shift: The share of each history, its oldest items, that is answered with other preferences; in
            [0, 1). Texts, dates and queries stay as they are.
        inactive: The share of users who keep only their latest 2 to 6 items, and all queries; in [0, 1].
        irrelevant: The share of each history's items that are about subjects that the user's queries never
            touch; in [0, 1). All other items, and the queries, are about the other half of the subjects.

    Raises:
        ConfigError: a share is out of its range.
    """

    shift: float = 0.0
    inactive: float = 0.0
    irrelevant: float = 0.0

    def __post_init__(self) -> None:
        for name in ("shift", "irrelevant"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"planted {name} is {getattr(self, name)}; give a share in [0, 1).")
        if not 0 <= self.inactive <= 1:
            raise ConfigError(f"planted inactive is {self.inactive}; give a share in [0, 1].")

    @classmethod
    def read(cls, texts: Sequence[str]) -> "Planted":
        """Parse options such as ``["shift=0.5", "inactive=0.3"]``.

        Raises:
            ConfigError: it is not understood, or out of its range.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        shares: dict[str, float] = {}
        for text in texts:
            name, _, share = text.partition("=")
            try:
                shares[names[names.index(name.strip())]] = float(share)
            except ValueError as error:
                known = ", ".join(f"{one}=0.5" for one in names)
                raise ConfigError(f"--plant {text!r} is not understood; write one of {known}.") from error
        return cls(**shares)


NOTHING = Planted()

"""Users with a few examples each, and what trains them both ways: together, and one by one in the loop."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from oppu_core.errors import TrainingError
from oppu_core.modeling.adapters import State, adapter_state, attach, load_state
from oppu_core.modeling.base import load_base
from oppu_core.modeling.packing import TokenizedExample
from oppu_core.modeling.skeleton import projection_names
from oppu_core.training.cohort import Cohort
from oppu_core.training.config import Peft, TrainConfig, personal_config
from oppu_core.training.loop import Outcome, Progress, Trained, train
from packed_toys import Users, example, state_distance

Folder = Callable[[str], Path]
Loaded = Callable[..., "Trainee"]

# Seven, three, one and four examples; of one length and of many; with a prefix and without. In batches of
# three they take three, one, one and two steps an epoch.
USERS: Users = [
    [example(20, 21 + seed % 3, 1 + seed % 4, seed) for seed in range(7)],
    [example(0, 3 + 11 * seed, 2, seed + 20, 1) for seed in range(3)],
    [example(0, 30, 3, 30, 2)],
    [example(6, 8 + 7 * seed, 4 - seed, seed + 40, 3) for seed in range(4)],
]


@dataclasses.dataclass(frozen=True)
class Trainee:
    """A model with a fresh adapter, and the settings."""

    model: Any
    fresh: State
    config: TrainConfig

    def with_(self, **changes: Any) -> "Trainee":
        """The same with other settings of training."""
        return dataclasses.replace(self, config=dataclasses.replace(self.config, **changes))

    def loop(
        self, rows: Sequence[TokenizedExample]
    ) -> tuple[Trained, dict[str, torch.Tensor], list[Progress]]:
        """One user, by the loop: facts, adapter, steps."""
        load_state(self.model, self.fresh)
        steps: list[Progress] = []
        trained = train(self.model, rows, self.config, 0, steps.append)
        return trained, adapter_state(self.model), steps

    def cohort(
        self, users: Users, on_step: Callable[[int, Progress], None] | None = None
    ) -> dict[int, Outcome]:
        """All users at once; in the order in which they are finished."""
        return dict(Cohort(self.model, self.fresh, self.config, 0).train(users, on_step))

    def states(self, users: Users) -> list[State]:
        """The adapters of users of whom all can be trained."""
        outcomes = self.cohort(users)
        return [finished(outcomes[place])[1] for place in range(len(users))]


def finished(outcome: Outcome) -> tuple[Trained, State]:
    assert not isinstance(outcome, TrainingError), outcome
    return outcome


def furthest(ours: Sequence[State], theirs: Sequence[State]) -> float:
    return max(state_distance(a, b) for a, b in zip(ours, theirs, strict=True))


def identical(ours: Sequence[State], theirs: Sequence[State]) -> bool:
    pairs = list(zip(ours, theirs, strict=True))
    return all(a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in pairs)


def make(
    folder: Path,
    method: Peft = "lora",
    prepare: Callable[[Any], Any] = lambda model: model,
    **changes: Any,
) -> Trainee:
    model = prepare(load_base(str(folder), device="cpu").model)
    if model.config.model_type == "mistral":
        model.config.sliding_window = 16
    config = personal_config("lamp_2m", "tiny", 5, projection_names(model), method)
    settings: dict[str, Any] = {
        "learning_rate": {"lora": 1e-2, "ia3": 2e-2, "prompt_tuning": 5e-2}[method],
        "epochs": 2,
        "batch_size": 3,
        "virtual_tokens": 5,
        "warmup": 0.2,
        "weight_decay": 0.1,
    }
    config = dataclasses.replace(config, **(settings | changes))
    peft_model = attach(model, config).to(model.dtype)
    return Trainee(peft_model, adapter_state(peft_model), config)

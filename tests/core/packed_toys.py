"""Users' batches, and what the fast path is held to: one row at a time through the model's own code."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from oppu_core.modeling.adapters import State, adapter_state
from oppu_core.modeling.packing import TokenizedExample

SIZE = 257  # of the toy models' vocabulary
Users = list[list[TokenizedExample]]


def draw(count: int, seed: int) -> tuple[int, ...]:
    """Random tokens."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(SIZE, (count,), generator=generator).tolist())


def example(shared: int, prompt: int, answer: int, seed: int, user: int = 0) -> TokenizedExample:
    """An example whose prompt begins with the first tokens of its user's own text, then goes its own way."""
    start = draw(64, 1000 + user)[:shared]
    return TokenizedExample((*start, *draw(prompt - shared + answer, seed)), prompt)


# Longer than the windows of 16 tokens: prefixes of 20, 0, 5, 18 tokens, and a user of one row.
USERS: Users = [
    [example(20, 23, 3, 1), example(20, 27, 1, 2), example(20, 42, 5, 3)],
    [example(0, 30, 2, 4, 1), example(0, 3, 12, 5, 1)],
    [example(5, 6, 2, 6, 2)] * 2 + [example(5, 40, 3, 7, 2)],
    [example(0, 21, 4, 8, 3)],
    [example(18, 19, 24, 9, 4), example(18, 20, 1, 10, 4)],
]


def logits_alone(model: Any, row: TokenizedExample) -> torch.Tensor:
    """The logits [N, V] at an example's targets, as the model itself gives them for one row."""
    first = max(row.prompt_len, 1) - 1
    ids_BT = torch.tensor([row.ids[:-1]])
    logits: torch.Tensor = model(input_ids=ids_BT, use_cache=False).logits[0]
    return logits[-(len(row.ids) - 1 - first) :]


def labels_of(row: TokenizedExample) -> torch.Tensor:
    """An example's targets [N]."""
    return torch.tensor(row.ids[max(row.prompt_len, 1) :])


def loss_alone(model: Any, batch: Sequence[TokenizedExample]) -> torch.Tensor:
    """The mean cross entropy of a batch's targets, row by row."""
    terms = [
        torch.nn.functional.cross_entropy(logits_alone(model, row), labels_of(row), reduction="none")
        for row in batch
    ]
    return torch.cat(terms).mean()


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference, relative to the largest value."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


def filled(peft_model: Any, seed: int, scale: float = 0.1) -> dict[str, torch.Tensor]:
    """Weights of an attached adapter that do something."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: weight + scale * torch.randn(weight.shape, generator=generator).to(weight.dtype)
        for name, weight in adapter_state(peft_model).items()
    }


def state_distance(ours: State, theirs: State) -> float:
    """The largest relative difference, in norm, of any tensor."""
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).norm() / theirs[name].norm()) for name in theirs)


def count_hooks(model: Any) -> int:
    """How many hooks the modules of a model carry."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def partitions(places: Sequence[int]) -> Iterator[list[list[int]]]:
    """All ways to cut a list into runs."""
    for cuts in itertools.product((False, True), repeat=len(places) - 1):
        groups = [[places[0]]]
        for place, cut in zip(places[1:], cuts, strict=True):
            if cut:
                groups.append([])
            groups[-1].append(place)
        yield groups


def in_doubles(model: Any, monkeypatch: Any) -> Any:
    """The model in float64 throughout; families take norms and soft maxima in float32 by themselves."""
    softmax = torch.nn.functional.softmax
    monkeypatch.setattr(torch.nn.functional, "softmax", lambda x, dim, dtype=None: softmax(x, dim))

    def norm(self: Any, x: torch.Tensor) -> torch.Tensor:
        eps = self.eps if hasattr(self, "eps") else self.variance_epsilon
        weight = 1 + self.weight if "Gemma" in type(self).__name__ else self.weight
        scaled: torch.Tensor = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight
        return scaled

    model = model.double()
    for kind in {type(module) for module in model.modules()}:
        if kind.__name__.endswith("RMSNorm"):
            monkeypatch.setattr(kind, "forward", norm)
    return model

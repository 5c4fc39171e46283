"""How many floating-point operations personal training has to do, by formula.

Counted are matrix products, at two operations for a multiplication and an addition: projections, LoRA, the
two products of attention (scores, and values weighted by them), the output head. Not counted: norms, softmax,
activations, the loss, and the optimizer, which only touches adapters.

With W weights in a frozen projection, r (in + out) in an adapter, pairs of a query and a token that it looks
at, and H · D the width of attention:

    forward    2 W for a token; 2 r (in + out) for a token; 4 H D for a pair
    backward   2 W for a token, towards the activations: a frozen weight has no gradient of its own
               4 r (in + out) for a token: towards activations and weights
               8 H D for a pair: both factors of both products are activations

Nothing flows below the first adapted projection, so that the first layer's query, key and value projections
have no backward, its adapters none towards their input, and its attention none towards its keys.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from oppu_core.modeling.families import ROLES
from oppu_core.modeling.packing import TokenizedExample, epoch_order, shared_prefix
from oppu_core.training.config import TrainConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from shapes import Users

READ_INPUT = tuple({name for role in ("query", "key", "value") for name in ROLES[role]})


@dataclasses.dataclass(frozen=True)
class Load:
    """What one step reads.

    Attributes:
        tokens: Through all layers, but for the last one's feed-forward.
        pairs: Of a query and a token that it looks at.
        outputs: Tokens through the last feed-forward and the output head.
    """

    tokens: int
    pairs: int
    outputs: int


def plain_load(batch: Sequence[TokenizedExample]) -> Load:
    """Padded rows, attention over all of them, logits everywhere."""
    width = max(len(row.ids) for row in batch)
    return Load(len(batch) * width, len(batch) * width**2, len(batch) * width)


def packed_load(batch: Sequence[TokenizedExample]) -> Load:
    """The shared prefix once, each row's own tokens but its last, logits at targets; no padding."""
    prefix = shared_prefix(batch)
    own = [len(row.ids) - 1 - prefix for row in batch]
    pairs = prefix * (prefix + 1) // 2 + sum(count * prefix + count * (count + 1) // 2 for count in own)
    return Load(prefix + sum(own), pairs, sum(len(row.ids) - row.prompt_len for row in batch))


def user_batches(rows: Sequence[TokenizedExample], config: TrainConfig) -> list[list[TokenizedExample]]:
    """A user's batches in their order, of all epochs."""
    order = torch.Generator().manual_seed(config.seed)
    return [
        [rows[index] for index in indices]
        for _ in range(config.epochs)
        for indices in epoch_order(rows, config.batch_size, order)
    ]


class Counter:
    """Counts for one model with LoRA.

    Args:
        peft_model: Its layers are alike; the feed-forward of each is called ``mlp``.
    """

    def __init__(self, peft_model: Any) -> None:
        model = peft_model.get_base_model()
        config = model.config
        self.layers: int = config.num_hidden_layers
        stacks = (module for module in model.base_model.modules() if isinstance(module, torch.nn.ModuleList))
        layer = next(stack for stack in stacks if len(stack) == self.layers)[0]
        self.inputs = self.attention = self.feed_forward = self.lora_a = self.lora_b = self.head = 0
        for name, module in layer.named_modules():
            own = name.removesuffix(".base_layer")
            weight = getattr(module, "weight", None)
            if isinstance(module, BaseTunerLayer) or weight is None or weight.dim() != 2:
                continue
            if ".lora_A." in name:
                self.lora_a += weight.numel()
            elif ".lora_B." in name:
                self.lora_b += weight.numel()
            elif own.startswith("mlp."):
                self.feed_forward += weight.numel()
            else:
                self.attention += weight.numel()
                self.inputs += weight.numel() if own.endswith(READ_INPUT) else 0
        heads: int = config.num_attention_heads
        self.width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
        self.head += model.get_output_embeddings().weight.numel()

    def step(self, load: Load) -> int:
        """Operations of a training step, forward and backward."""
        tokens, layers = load.tokens, self.layers
        lora = self.lora_a + self.lora_b
        outputs = 2 * load.outputs * (self.feed_forward + self.head)
        frozen = 2 * tokens * (layers * self.attention + (layers - 1) * self.feed_forward) + outputs
        forward = frozen + layers * (2 * tokens * lora + 4 * load.pairs * self.width)
        backward = frozen + layers * (4 * tokens * lora + 8 * load.pairs * self.width)
        below = 2 * tokens * (self.inputs + self.lora_a) + 2 * load.pairs * self.width
        total: int = forward + backward - below
        return total

    def training(self, users: Users, config: TrainConfig) -> tuple[int, int]:
        """Operations of all users' trainings: the plain way's and the packed way's."""
        batches = [batch for rows in users for batch in user_batches(rows, config)]
        plain = sum(self.step(plain_load(batch)) for batch in batches)
        return plain, sum(self.step(packed_load(batch)) for batch in batches)

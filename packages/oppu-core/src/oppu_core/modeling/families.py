"""Where adapters go: a model's projections by role, under the names that its family uses.

Families name the same matrices differently, and some fuse query, key and value into one.
"""

from collections.abc import Iterable, Mapping, Sequence

from oppu_core.errors import ConfigError

# The first name that a model has is used: Llama, Mistral, Qwen and Gemma; GPT-2; GPT-NeoX; Bloom and Falcon;
# Phi-3; OPT.
ROLES: Mapping[str, tuple[str, ...]] = {
    "query": ("q_proj", "c_attn", "query_key_value", "qkv_proj"),
    "key": ("k_proj", "c_attn", "query_key_value", "qkv_proj"),
    "value": ("v_proj", "c_attn", "query_key_value", "qkv_proj"),
    "output": ("o_proj", "attn.c_proj", "attention.dense", "self_attention.dense", "out_proj"),
    "down": ("down_proj", "mlp.c_proj", "mlp.dense_4h_to_h", "fc2"),
}
LLAMA = tuple(names[0] for names in ROLES.values())


def default_targets(roles: Iterable[str], projections: Sequence[str]) -> tuple[str, ...]:
    """The names of these roles' projections in a model; empty if a role's name is unknown.

    Args:
        roles: Keys of :data:`ROLES`.
        projections: The full names of the model's linear maps.
    """
    found = [next((name for name in ROLES[role] if _has(projections, name)), None) for role in roles]
    known = [name for name in found if name is not None]
    return tuple(dict.fromkeys(known)) if len(known) == len(found) else ()


def check_targets(
    targets: Sequence[str], projections: Sequence[str], shared: Mapping[str, str] | None = None
) -> None:
    """Refuse to adapt projections that a model does not have; PEFT itself would silently skip them.

    Args:
        targets: Ends of names.
        projections: The full names of the model's linear maps.
        shared: {linear map: the module that shares its weights}; merging into one would change the other.

    Raises:
        ConfigError: names what is missing and what there is, or what is shared.
    """
    missing = [name for name in targets if not _has(projections, name)]
    if missing or not targets:
        there = dict.fromkeys(".".join(name.split(".")[-2:]) for name in projections)
        what = f"called {', '.join(missing)}" if missing else "with a name of the families that are known"
        raise ConfigError(
            f"The base has no module {what} for an adapter; its modules: {', '.join(there)}. "
            "Name others with --set personal.targets=… and --set task_lora.targets=…."
        )

    for name, other in (shared or {}).items():
        if target := next((target for target in targets if _has([name], target)), None):
            raise ConfigError(
                f"The base's {name} has the same weights as {other}, so that it cannot be adapted by itself. "
                f"Leave {target} out of --set personal.targets=… and --set task_lora.targets=…."
            )


def _has(projections: Sequence[str], target: str) -> bool:
    return any(f".{name}".endswith(f".{target}") for name in projections)

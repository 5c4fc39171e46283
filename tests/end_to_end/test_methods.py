"""Personal adapters of every method, and a quantized base, through the real command line."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from oppu_core.data.dataset import Dataset
from oppu_core.runs.run import open_run
from oppu_core.storage.store import Store
from small_world import QUICK, ROUNDING, adapters, distance

Oppu = Callable[..., CompletedProcess[str]]
METHODS = ["--methods", "non_personalized,oppu_k0"]


def files(folder: Path, pattern: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob(pattern))}


def events(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("peft", ["ia3", "prompt_tuning"])
def test_a_run_with_another_method(peft: str, oppu: Oppu, movies: Dataset, tmp_path: Path) -> None:
    run = tmp_path / "one" / "run"
    command = ["run", "--run", run, "--data", movies.path, *QUICK, *METHODS, "--peft", peft]
    result = oppu(*command)
    assert result.returncode == 0, result.stderr
    stored = files(tmp_path / "one" / "store", "adapter_*")
    configs = [json.loads(text) for name, text in stored.items() if name.endswith(".json")]
    assert sorted(config["peft_type"] for config in configs) == sorted(["LORA", *[peft.upper()] * 3])
    answers = files(run, "*.jsonl")
    answers.pop("log.jsonl")

    (run / "lamp_2m" / "predictions" / "oppu_k0.jsonl").unlink()
    before = len(events(run))
    result = oppu(*command)
    assert result.returncode == 0, result.stderr
    assert not [event for event in events(run)[before:] if event["event"] == "user"], "all are trained"
    assert files(tmp_path / "one" / "store", "adapter_*") == stored
    again = files(run, "*.jsonl")
    again.pop("log.jsonl")
    assert again == answers

    # Alone, a user gets the same adapter: but for rounding when it was trained together with others.
    found = {}
    for name, options in {"alone": ["--users", "1"], "one by one": ["--cohort", "1"]}.items():
        command[2] = tmp_path / name / "run"
        result = oppu(*command, *options)
        assert result.returncode == 0, result.stderr
        found[name] = adapters(tmp_path / name / "store")
    together = adapters(tmp_path / "one" / "store")
    assert (len(found["alone"]), len(together)) == (1, 3)
    assert found["alone"].items() <= found["one by one"].items()
    assert found["one by one"].keys() == together.keys()
    assert max(distance(together[key], found["one by one"][key]) for key in together) < ROUNDING


def test_prompts_leave_room_for_virtual_tokens(
    oppu: Oppu, movies: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oppu_core.runs import answering as inference
    from oppu_core.training.trainer import Trainer

    lengths: dict[str, list[int]] = {"training": [], "answering": []}
    answer_groups, train = inference.answer_groups, Trainer.train

    def trained(self: Trainer, users: Any, *rest: Any) -> Any:
        if hasattr(self.base.model, "prompt_encoder"):  # not the task LoRA, which takes no room
            lengths["training"] += [len(example.ids) for examples in users for example in examples]
        return train(self, users, *rest)

    def watched(
        model: Any, tokenizer: Any, groups: Any, states: Any, *, max_new_tokens: int, **rest: Any
    ) -> Any:
        assert states is not None and hasattr(model, "prompt_encoder")
        lengths["answering"] += [
            len(tokenizer.prompt_ids(p)) + max_new_tokens for group in groups for p in group
        ]
        return answer_groups(model, tokenizer, groups, states, max_new_tokens=max_new_tokens, **rest)

    monkeypatch.setattr(Trainer, "train", trained)
    monkeypatch.setattr(inference, "answer_groups", watched)
    run = tmp_path / "run"
    result = oppu(
        "run", "--run", run, "--data", movies.path, *QUICK, "--methods", "oppu_rag_k4", "--users", "1",
        "--peft", "prompt_tuning", "--set", "personal.virtual_tokens=300",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    room = open_run(run).base_identity().context - 300
    for where, found in lengths.items():
        assert room - 40 < max(found) <= room, f"{where}: prompts are cut to the room that is left"


def test_a_quantized_run(oppu: Oppu, movies: Dataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ["run", "--run", run, "--data", movies.path, *QUICK, *METHODS, "--users", "1"]
    result = oppu(*command, "--quantize", "nf4", "--peft", "ia3")
    assert result.returncode == 0, result.stderr
    assert open_run(run).base_identity().quantize == "nf4"
    assert {entry.status for entry in Store(tmp_path / "store").entries()} == {"ok"}
    result = oppu(*command)
    assert result.returncode == 2
    assert "quantize: 'nf4' then, None now" in result.stderr


def test_targets_are_checked_before_anything_is_made(oppu: Oppu, movies: Dataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for setting in ("personal.targets=q_proj,query", "task_lora.targets=query"):
        result = oppu("run", "--run", run, "--data", movies.path, "--set", setting)
        assert result.returncode == 2
        assert "no module called query" in result.stderr
        assert "self_attn.q_proj" in result.stderr
        assert not run.exists()

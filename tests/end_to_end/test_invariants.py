"""The invariants of the design: what an adapter, a base and an answer depend on, and what they do not."""

import dataclasses
from pathlib import Path

import pytest
import torch
from oppu_core.data.dataset import Dataset
from oppu_core.data.dataset_writer import write_dataset
from oppu_core.data.types import HistoryItem, User
from oppu_core.modeling.adapters import attach, load_state
from oppu_core.modeling.base import Base, load_base
from oppu_core.modeling.packing import tokenize
from oppu_core.ownership.base_export import write_model
from oppu_core.prompting.builder import PromptBuilder
from oppu_core.prompting.methods import parse_method, variant_method
from oppu_core.prompting.retrieval import BM25Retriever
from oppu_core.runs.answering import AnswerRules, answer
from oppu_core.storage.keys import Key
from oppu_core.storage.store import Store
from oppu_core.training import keys, personal, task_base
from oppu_core.training.config import TrainConfig, personal_config, task_config
from oppu_core.training.plan import CohortPlan
from oppu_core.training.trainer import Trainer
from rounding import LOSSES
from small_world import QUICK, ROUNDING, distance, sample_dataset
from transformers.models.llama.modeling_llama import LlamaRMSNorm

TASK_CONFIG = dataclasses.replace(task_config("lamp_2m", "tiny", 0), epochs=1)
# Several steps, so that the order of examples matters.
CONFIG = dataclasses.replace(personal_config("lamp_2m", "tiny", 0), epochs=1, batch_size=3)


@dataclasses.dataclass
class World:
    """A task base on a dataset, and its store."""

    base: Base
    builder: PromptBuilder
    store: Store
    dataset: Dataset
    variant: str = "base"

    def train(
        self, users: list[User], config: TrainConfig = CONFIG, size: int | None = None
    ) -> list[personal.UserDone]:
        done: list[personal.UserDone] = []
        key = keys.of_task_lora(self.base.identity, self.dataset, self.variant, TASK_CONFIG)
        method = variant_method(self.variant)
        trainer = Trainer.of(self.base, config)

        def key_of(user: User) -> Key:
            profile = self.builder.profile_for(method, user)
            return keys.of_adapter(key, self.dataset.task, config, user, profile)

        keyed = [(user, key_of(user)) for user in users]
        cohorts = personal.LocalCohorts(
            trainer,
            keyed,
            lambda user: tokenize(self.builder.history_examples(self.variant, user), self.base.tokenizer),
            self.store,
        )
        personal.train_personal(cohorts, keyed, self.store, done.append, plan=CohortPlan(size=size))
        self.base = dataclasses.replace(trainer.base, model=trainer.base.model.unload())
        return done

    def in_doubles(self, monkeypatch: pytest.MonkeyPatch) -> "World":
        """From now on in float64, so that rounding is nothing; Llama's norms would go by float32."""

        def norm(norm: LlamaRMSNorm, x: torch.Tensor) -> torch.Tensor:
            scaled: torch.Tensor = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon)
            return norm.weight * scaled

        monkeypatch.setattr(LlamaRMSNorm, "forward", norm)
        self.base.model.double()
        return self

    def weights(self, user: User) -> bytes:
        key = keys.of_task_lora(self.base.identity, self.dataset, self.variant, TASK_CONFIG)
        method = parse_method("non_personalized" if self.variant == "base" else self.variant)
        profile = self.builder.profile_for(method, user)
        folder = keys.of_adapter(key, self.dataset.task, CONFIG, user, profile).folder
        return (self.store.path / folder / "adapter_model.safetensors").read_bytes()


@pytest.fixture
def world(movies: Dataset, tmp_path: Path):
    def make(
        variant: str = "base", dataset: Dataset = movies, name: str = "store", supports_packing: bool = True
    ) -> World:
        base = load_base("tiny", device="cpu")
        builder = PromptBuilder(dataset.task, base.tokenizer, {"bm25": BM25Retriever(dataset.task)})
        store = Store(tmp_path / name)
        key = keys.of_task_lora(base.identity, dataset, variant, TASK_CONFIG)
        base = task_base.train_task_lora(base, key, dataset, builder, TASK_CONFIG, store)
        return World(
            dataclasses.replace(base, supports_packing=supports_packing), builder, store, dataset, variant
        )

    return make


@pytest.mark.parametrize("variant", ["base", "rag_k1", "pag_k0"])
def test_adapter_depends_on_own_history_only(world, variant: str) -> None:
    """Same bytes alone, after other users, and in another order (the authors' code fails this)."""
    first, second, third = world().dataset.users("test")
    alone, after, before = (
        world(variant, name=name, supports_packing=False) for name in ("alone", "after", "before")
    )
    alone.train([second])
    after.train([first, third, second])
    before.train([second, third, first])
    assert alone.weights(second) == after.weights(second) == before.weights(second)
    assert after.weights(first) != after.weights(second)


@pytest.fixture
def double_by_default():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("variant", ["base", "rag_k1", "pag_k0"])
def test_in_doubles_a_cohort_gives_what_the_reference_gives(
    world, tmp_path: Path, monkeypatch, double_by_default: None, variant: str
) -> None:
    """Alone, with others and with other others: what is left is rounding, so nothing of anybody's data."""
    first, second, third = world().dataset.users("test")
    strangers = sample_dataset(tmp_path / "strangers", users=5, seed=1).users("test")
    others = [dataclasses.replace(user, user_id=f"stranger {user.user_id}") for user in strangers]
    ours = world(variant).in_doubles(monkeypatch)

    def trained(
        name: str, users: list[User], size: int | None = None, supports_packing: bool = True
    ) -> bytes:
        ours.base = dataclasses.replace(ours.base, supports_packing=supports_packing)
        ours.store = Store(tmp_path / name)
        ours.train(users, size=size)
        return ours.weights(second)

    expected = trained("reference", [first, second], supports_packing=False)
    assert b'"F64"' in expected
    found = {
        "alone": trained("alone", [second]),
        "together": trained("together", [first, second, third]),
        "by two": trained("by two", [first, second, third], size=2),
        "strangers": trained("strangers", [*others, second]),
    }
    assert {name: away for name, one in found.items() if (away := distance(one, expected)) > 1e-10} == {}


def test_in_cohorts_the_others_matter_by_rounding_alone(world, tmp_path: Path) -> None:
    """Same bytes under the same plan, whatever the order; the same losses under others."""
    first, second, third = world().dataset.users("test")
    strangers = sample_dataset(tmp_path / "strangers", users=5, seed=1).users("test")
    others = [dataclasses.replace(user, user_id=f"stranger {user.user_id}") for user in strangers]

    ours, losses = world("rag_k1"), []

    def trained(
        name: str, users: list[User], size: int | None = None, supports_packing: bool = True
    ) -> bytes:
        ours.base = dataclasses.replace(ours.base, supports_packing=supports_packing)
        ours.store = Store(tmp_path / name)
        done = {one.user_id: one for one in ours.train(users, size=size)}
        losses.append(done[second.user_id].loss)
        return ours.weights(second)

    alone = trained("alone", [second])
    assert trained("one by one", [first, second, *others], size=1) == alone
    together = trained("together", [first, second, third])
    assert trained("in another order", [third, second, first]) == together
    found = {
        "together": together,
        "by two": trained("by two", [first, second, third], size=2),
        "among strangers": trained("among strangers", [*others, second]),
        "reference": trained("reference", [first, second], supports_packing=False),
    }
    assert {name: away for name, one in found.items() if (away := distance(one, alone)) >= ROUNDING} == {}
    assert losses == pytest.approx(losses[:1] * len(losses), rel=LOSSES)


@pytest.mark.parametrize("supports_packing", [True, False])
def test_adapter_changes_when_the_own_history_does(world, supports_packing: bool) -> None:
    user = next(world().dataset.users("test"))
    one = world(name="changing", supports_packing=supports_packing)
    one.train([user])
    other_tag = "comedy" if user.history[2].fields["tag"] != "comedy" else "action"
    fields = {**user.history[2].fields, "tag": other_tag}
    history = (*user.history[:2], HistoryItem("x", fields), *user.history[3:])
    changed = dataclasses.replace(user, history=history)
    one.train([changed])
    assert one.weights(user) != one.weights(changed)


@pytest.mark.parametrize("variant", ["base", "rag_k1", "pag_k0"])
def test_nothing_after_the_earliest_query_reaches_training(world, variant: str) -> None:
    """A giveaway planted in items and golds beyond `history_len` changes no byte of the adapter."""
    user = next(world().dataset.users("test"))
    giveaway = HistoryItem("future", {"description": "GIVEAWAY " * 5, "tag": "violence"}, "2031-01-01")
    golds = tuple(dataclasses.replace(query, gold="GIVEAWAY") for query in user.queries)
    future = dataclasses.replace(user, history=(*user.history, giveaway), queries=golds)
    one, other = world(variant, name="one"), world(variant, name="other")
    one.train([user])
    other.train([future])
    assert one.weights(user) == other.weights(future)
    prompts = [example.prompt for example in other.builder.history_examples(variant, future)]
    method = parse_method("non_personalized" if variant == "base" else variant)
    profile = other.builder.profile_for(method, future)
    prompts += [other.builder.query_prompt(method, future, query, profile).text for query in future.queries]
    assert not any("GIVEAWAY" in prompt for prompt in prompts)


def test_no_test_users_data_is_in_a_task_base(world, movies: Dataset, tmp_path: Path) -> None:
    """Other test users, same others: the task LoRA has the same key and the same bytes."""
    others = list(movies.users("others"))
    strangers = list(sample_dataset(tmp_path / "seed1", seed=1).users("test"))
    dataset = write_dataset(
        tmp_path / "other-test-users", movies.task, [*others, *strangers], {"kind": "test"}
    )
    files = []
    for name, data in (("a", movies), ("b", dataset)):
        store = world(dataset=data, name=name).store
        entry = next(entry for entry in store.entries() if entry.kind == "task_lora")
        files.append((entry.folder, (store.path / entry.folder / "adapter_model.safetensors").read_bytes()))
    assert files[0] == files[1]


@pytest.mark.parametrize("variant", ["base", "rag_k1"])
def test_adapter_opens_with_plain_peft_on_the_exported_task_base(world, tmp_path: Path, variant: str) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    ours = world(variant)
    user = next(ours.dataset.users("test"))
    ours.train([user])
    key = keys.of_task_lora(ours.base.identity, ours.dataset, variant, TASK_CONFIG)
    adapter = keys.of_adapter(key, ours.dataset.task, CONFIG, user, "")
    exported = tmp_path / "task-base"
    exported.mkdir()
    write_model(ours.base, exported)
    plain = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32), ours.store.path / adapter.folder
    )
    model = attach(ours.base.model, CONFIG)
    ids = torch.tensor(
        [ours.base.tokenizer.prompt_ids("description: A dragon sleeps under the castle. tag:")]
    )
    with torch.no_grad():
        untrained = model(input_ids=ids).logits
        load_state(model, ours.store.load(adapter))
        expected = model(input_ids=ids).logits
        found = plain.eval()(input_ids=ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(untrained, expected, atol=1e-3), "the adapter does nothing"


def test_merged_task_base_is_the_base_with_its_lora(world) -> None:
    merged = world()
    key = keys.of_task_lora(merged.base.identity, merged.dataset, "base", TASK_CONFIG)
    stacked = attach(load_base("tiny", device="cpu").model, TASK_CONFIG)
    load_state(stacked, merged.store.load(key))
    ids = torch.tensor([merged.base.tokenizer.prompt_ids("description: The jokes never stop. tag:")])
    with torch.no_grad():
        torch.testing.assert_close(
            merged.base.model(input_ids=ids).logits, stacked(input_ids=ids).logits, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("supports_packing", [True, False])
def test_a_user_whose_training_fails_is_set_aside_and_the_others_go_on(
    world, monkeypatch, supports_packing: bool
) -> None:
    from oppu_core.modeling.packing import tokenize
    from oppu_core.training import loop
    from oppu_core.training.cohort import Cohort

    ours = world(supports_packing=supports_packing)
    first, second, third = ours.dataset.users("test")
    empty = dataclasses.replace(
        second, history=(), queries=tuple(dataclasses.replace(q, history_len=0) for q in second.queries)
    )
    poison = tokenize(ours.builder.history_examples("base", third), ours.base.tokenizer)
    alone = world(name="alone", supports_packing=supports_packing)
    alone.train([first])
    # What a numerical accident looks like.
    loss, train, target_loss = Cohort._loss, loop.train, loop.target_loss

    def loss_of_all(self, packed_model, batches, *rest):
        bad_U = torch.tensor([float("nan") if set(rows) <= set(poison) else 1.0 for rows in batches])
        return loss(self, packed_model, batches, *rest) * bad_U

    def train_one(model, examples, *rest):
        nan = torch.tensor(float("nan"))
        monkeypatch.setattr(loop, "target_loss", (lambda *_: nan) if examples == poison else target_loss)
        return train(model, examples, *rest)

    monkeypatch.setattr(Cohort, "_loss", loss_of_all)
    monkeypatch.setattr(loop, "train", train_one)
    done = {one.user_id: one.reason or "" for one in ours.train([empty, third, first])}
    assert "nothing to train on" in done[empty.user_id]
    assert "the loss became nan at step 1" in done[third.user_id]
    assert done[first.user_id] == ""
    failed = [entry.user_id for entry in ours.store.entries() if entry.status == "failed"]
    assert sorted(failed) == sorted([empty.user_id, third.user_id])
    if supports_packing:
        assert distance(ours.weights(first), alone.weights(first)) < ROUNDING
    else:
        assert ours.weights(first) == alone.weights(first)


@pytest.mark.parametrize("name", ["rag_k1", "oppu_rag_k1"])
def test_answers_do_not_depend_on_the_batch(world, name: str) -> None:
    ours = world("rag_k1")
    users = list(ours.dataset.users("test"))
    method = parse_method(name)
    base = ours.base
    if method.personal:
        ours.train(users)
        base = dataclasses.replace(ours.base, model=attach(ours.base.model, CONFIG))

    def adapter_of(user: User):
        key = keys.of_task_lora(ours.base.identity, ours.dataset, "rag_k1", TASK_CONFIG)
        return ours.store.load(keys.of_adapter(key, ours.dataset.task, CONFIG, user, ""))

    def texts(size: int, some: list[User]) -> dict[tuple[str, str], str]:
        rules = AnswerRules(ours.builder.answer_tokens)
        units = answer(base, method, some, ours.builder, rules, adapter_of=adapter_of, batch_size=size)
        return {(one.user_id, one.id): one.answer for unit in units for one in unit}

    together = texts(32, users)
    assert texts(1, users) == together
    assert texts(2, users[::-1]) == together
    assert any(together.values())


def test_the_same_command_gives_the_same_bytes(oppu_process, movies: Dataset, tmp_path: Path) -> None:
    """In two processes whose sets are ordered differently."""
    found = []
    for seed in ("1", "2"):
        run = tmp_path / seed / "run"
        command = ["run", "--run", run, "--data", movies.path, *QUICK]
        result = oppu_process(
            *command, "--methods", "non_personalized,random_k1,pag_k0,oppu_pag_k0", PYTHONHASHSEED=seed
        )
        assert result.returncode == 0, result.stderr
        files = {
            str(path.relative_to(run.parent)): path.read_bytes()
            for path in run.parent.rglob("*")
            if path.suffix in (".json", ".jsonl", ".safetensors", ".svg") and path.name != "log.jsonl"
        }
        assert sum(name.endswith(".safetensors") for name in files) == 3 + 3  # three variants, three users
        found.append(files)
    assert found[0] == found[1]


def test_a_damaged_or_foreign_adapter_is_refused(oppu, movies: Dataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ["run", "--run", run, "--data", movies.path, "--methods", "non_personalized,oppu_k0", *QUICK]
    assert oppu(*command).returncode == 0
    weights = sorted((tmp_path / "store" / "adapters").rglob("adapter_model.safetensors"))
    weights[0].write_bytes(weights[1].read_bytes())  # another user's adapter in this one's place
    (run / "lamp_2m" / "predictions" / "oppu_k0.jsonl").unlink()
    result = oppu("answer", "--run", run)
    assert result.returncode == 1
    assert "damaged" in result.stderr and "Traceback" not in result.stderr

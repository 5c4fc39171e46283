"""Adapters leave a run and come back: what goes along, what plain PEFT makes of it, and what is refused."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from oppu_core.modeling.adapters import attach, load_state, merge
from oppu_core.ownership.adapter_export import export_adapter
from oppu_core.ownership.bundle import Bundle, read_bundle, seal, write_bundle
from oppu_core.runs.jobs import VariantJobs
from oppu_core.runs.run import open_run
from oppu_core.runs.variants import find_variant
from oppu_core.storage.files import canonical_json
from oppu_core.storage.store import Store
from small_world import QUICK, sample_dataset

METHODS = ["--methods", "non_personalized,oppu_k0,oppu_rag_k1"]
ADAPTER, TASK_LORA = "adapter_model.safetensors", "task_lora/adapter_model.safetensors"
USER = "test-001"


def command(*arguments: object) -> None:
    from oppu_core.cli.main import app, register_plugins

    if "evaluate" not in {each.callback.__name__ for each in app.registered_commands if each.callback}:
        register_plugins()
    app([str(argument) for argument in arguments], standalone_mode=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two variants with its answers evaluated, its data beside it."""
    folder = tmp_path_factory.mktemp("owned")
    data = sample_dataset(folder / "data").path
    command("base", "train", "--run", folder / "run", "--data", data, *METHODS, *QUICK)
    command("personal", "train", "--run", folder / "run")
    command("answer", "--run", folder / "run")
    command("evaluate", "--run", folder / "run")
    return folder / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    shutil.copytree(finished.parent / "store", tmp_path / "store")
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def empty(finished: Path, tmp_path: Path) -> Path:
    """The same run on another machine, where nothing has been trained."""
    (tmp_path / "empty").mkdir()
    return Path(shutil.copytree(finished, tmp_path / "empty" / "run"))


@pytest.fixture(scope="module")
def exported(finished: Path) -> Bundle:
    return export_adapter(open_run(finished), USER, None, "base")


def weights(run: Path, user: str = USER) -> Path:
    opened = open_run(run)
    store = Store(opened.store_path)
    work = find_variant(opened, None, "base", personal=True)
    return store.path / work.key_of(work.dataset.user(user)).folder / ADAPTER


def resealed(bundle: Bundle, change: Callable[[dict[str, Any]], None] = lambda _: None) -> Bundle:
    """What somebody makes who knows how checksums work."""
    manifest = json.loads(bundle["oppu.json"])
    change(manifest)
    return seal({name: data for name, data in bundle.items() if name != "oppu.json"}, manifest)


def test_list_says_what_is_whole_damaged_missing_and_untrained(oppu, run: Path) -> None:
    weights(run, "test-000").write_bytes(b"damaged")
    shutil.rmtree(weights(run, "test-001").parent)
    result = oppu("adapters", "list", "--run", run)
    assert result.returncode == 0, result.stderr
    rows = [line for line in result.stdout.splitlines() if "test-0" in line]
    base = [line for line in rows if "│base " in line]
    assert len(rows) == 6 and len(base) == 3
    assert "damaged on" in base[0] and "missing on" in base[1] and "│ok " in base[2]
    assert "6 adapters, 4 of them whole" in result.stdout
    assert "6 adapters, 4 of them whole" in oppu("adapters", "list", "--store", run.parent / "store").stdout
    shown = oppu("adapters", "show", "test-001", "--run", run, "--variant", "base").stdout
    assert "missing on disk" in shown and "oppu_k0" in shown and "Accuracy" in shown


def test_the_scores_of_a_single_user_have_no_interval(oppu, run: Path, tmp_path: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    for row in results["rows"]:
        row["ci95"] = None
    (run / "results.json").write_text(json.dumps(results))
    shown = oppu("adapters", "show", USER, "--run", run, "--variant", "base")
    assert shown.returncode == 0 and "Accuracy" in shown.stdout, shown.stderr
    arguments = ["adapters", "export", USER, "--run", run, "--variant", "base", "--out", tmp_path / "mine"]
    assert oppu(*arguments).returncode == 0
    assert "| – | 3 |" in (tmp_path / "mine" / "README.md").read_text()


def test_list_names_a_failure_and_never_makes_a_store(oppu, run: Path, tmp_path: Path) -> None:
    opened = open_run(run)
    store = Store(opened.store_path)
    work = find_variant(opened, None, "base", personal=True)
    key = work.key_of(work.dataset.user("test-002"))
    shutil.rmtree(store.path / key.folder)
    store.put_failure(key, "the loss became nan")
    assert "failed: the" in oppu("adapters", "list", "--run", run).stdout
    arguments = ["adapters", "export", "test-002", "--run", run, "--variant", "base", "--out", tmp_path / "x"]
    refused = oppu(*arguments)
    assert refused.returncode == 1 and "the loss became nan" in refused.stderr
    for options in (["--store", tmp_path / "typo"], [], ["--run", run, "--store", tmp_path]):
        assert oppu("adapters", "list", *options).returncode == 2
    assert not (tmp_path / "typo").exists() and not (tmp_path / "x").exists()


def test_an_exported_adapter_on_the_exported_base_is_the_run_s_model(oppu, run: Path, tmp_path: Path) -> None:
    """Plain transformers and peft: base + task LoRA + adapter, or merged base + adapter; oppu's logits."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    mine, merged = tmp_path / "mine", tmp_path / "merged"
    done = oppu("adapters", "export", USER, "--run", run, "--variant", "base", "--out", mine)
    assert done.returncode == 0, done.stderr
    done = oppu("base", "export", "--run", run, "--variant", "base", "--out", merged)
    assert done.returncode == 0, done.stderr

    opened = open_run(run)
    store = Store(opened.store_path)
    work = find_variant(opened, None, "base", personal=True)
    base = VariantJobs(work, store).load_base()
    ids = torch.tensor([base.tokenizer.prompt_ids("description: A dragon sleeps under the castle. tag:")])
    ours = attach(merge(base.model, work.task_config, store.load(work.task_lora)), work.personal_config)
    with torch.no_grad():
        unadapted = ours(input_ids=ids).logits
        load_state(ours, store.load(work.key_of(work.dataset.user(USER))))
        expected = ours(input_ids=ids).logits
    assert not torch.allclose(unadapted, expected, atol=1e-3), "the adapter does nothing"

    from oppu_core.modeling.base_files import base_folder

    def plain(folder: Path) -> Any:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    stacked = PeftModel.from_pretrained(plain(base_folder("tiny")), mine / "task_lora").merge_and_unload()
    for model in (stacked, plain(merged)):
        with torch.no_grad():
            torch.testing.assert_close(model(input_ids=ids).logits, unadapted, rtol=1e-5, atol=1e-5)
            found = PeftModel.from_pretrained(model, mine).eval()(input_ids=ids).logits
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(merged)
    assert tokenizer("a <x> b")["input_ids"] == base.tokenizer.hf("a <x> b")["input_ids"]


def test_an_export_tells_neither_the_id_nor_the_history(oppu, run: Path, tmp_path: Path) -> None:
    arguments = ["adapters", "export", USER, "--run", run, "--variant", "base"]
    for name in ("one", "two", "one.zip", "two.zip"):
        assert oppu(*arguments, "--out", tmp_path / name).returncode == 0
    assert read_bundle(tmp_path / "one") == read_bundle(tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    dataset = open_run(run).dataset("lamp_2m")
    texts = [item.fields["description"][:20] for item in dataset.user(USER).history]
    everything = (tmp_path / "one.zip").read_bytes().decode("latin-1")
    assert "oppu_k0" in everything and "lamp_2m" in everything
    for secret in (USER, str(run.parent), str(dataset.path), *texts):
        assert secret not in everything
    assert oppu(*arguments, "--out", tmp_path / "named.zip", "--with-user-id").returncode == 0
    assert USER in (tmp_path / "named.zip").read_bytes().decode("latin-1")


def test_what_was_exported_comes_back_with_the_same_bytes_and_answers(
    oppu, run: Path, empty: Path, exported: Bundle, tmp_path: Path
) -> None:
    write_bundle(exported, tmp_path / "mine.zip")
    done = oppu("adapters", "import", tmp_path / "mine.zip", "--run", empty)
    assert done.returncode == 0, done.stderr
    assert USER in done.stdout  # known by the history alone
    assert weights(empty).read_bytes() == weights(run).read_bytes()
    listed = oppu("adapters", "list", "--run", empty).stdout
    assert "6 adapters, 1 of them whole" in listed and listed.count("not trained") == 5
    assert export_adapter(open_run(empty), USER, None, "base") == exported
    again = oppu("adapters", "import", tmp_path / "mine.zip", "--run", empty)
    assert again.returncode == 0 and "had it already" in again.stdout


def test_an_export_that_was_unzipped_and_zipped_again_comes_back(
    oppu, run: Path, empty: Path, exported: Bundle, tmp_path: Path
) -> None:
    write_bundle(exported, tmp_path / "zips" / "mine")
    (tmp_path / "zips" / "mine" / "README.md").write_text("My own words.")
    (tmp_path / "zips" / "mine" / ".DS_Store").write_text("x")
    shutil.make_archive(str(tmp_path / "again"), "zip", tmp_path / "zips")  # with entries of folders
    done = oppu("adapters", "import", tmp_path / "again.zip", "--run", empty)
    assert done.returncode == 0, done.stderr
    assert weights(empty).read_bytes() == weights(run).read_bytes()


def test_an_adapter_is_not_put_over_another(oppu, run: Path, exported: Bundle, tmp_path: Path) -> None:
    from safetensors.torch import load, save

    before = weights(run).read_bytes()
    zeros = {name: value * 0 for name, value in load(exported[ADAPTER]).items()}
    write_bundle(resealed({**exported, ADAPTER: save(zeros)}), tmp_path / "other")
    refused = oppu("adapters", "import", tmp_path / "other", "--run", run)
    assert refused.returncode == 2 and "is kept" in refused.stderr
    assert weights(run).read_bytes() == before
    nudged = {name: value * 1.001 for name, value in load(exported[TASK_LORA]).items()}
    bundle = resealed({**exported, TASK_LORA: save(nudged)})
    write_bundle(bundle, tmp_path / "nudged")
    noted = oppu("adapters", "import", tmp_path / "nudged", "--run", run)
    assert noted.returncode == 0 and "other weights" in noted.stdout


def bad(exported: Bundle) -> Iterator[tuple[str, Bundle, list[str], str]]:
    """(what, bundle, options, part of the message)"""
    from safetensors.torch import load, save

    def changed(path: str, value: Any) -> Bundle:
        def change(manifest: dict[str, Any]) -> None:
            *parents, last = path.split(".")
            for name in parents:
                manifest = manifest[name]
            manifest[last] = value

        return resealed(exported, change)

    state = load(exported[ADAPTER])
    first = next(iter(state))

    def trained(**tensors: torch.Tensor) -> Bundle:
        return resealed({**exported, ADAPTER: save({**state, **tensors})})

    yield "flipped", {**exported, ADAPTER: exported[ADAPTER][:-1] + b"\x01"}, [], "is not the file"
    yield "base", changed("task_lora.base.fingerprint", "0" * 64), [], "base.fingerprint"
    yield "quantized", changed("task_lora.base.quantize", "nf4"), [], "quantize: 'nf4' there, None here"
    yield "other data", changed("task_lora.data", "0" * 64), [], "data: "
    yield "settings", changed("adapter.training.rank", 4), [], "training.rank: 4 there, 8 here"
    yield "task", changed("task", "lamp_9"), [], "no task 'lamp_9'"
    yield "variant", changed("variant", "rag_k9"), [], "no variant 'rag_k9'"
    yield "history", changed("history", "0" * 64), [], "no test user of this run"
    yield "another's", exported, ["--user", "test-000"], "another history"
    yield "nobody's", exported, ["--user", "nobody"], "no user 'nobody'"
    yield "one of the others'", exported, ["--user", "others-000"], "one of the others"
    yield "no facts", changed("facts", None), [], "does not describe"
    yield "list facts", changed("facts", [1]), [], "does not describe"
    yield "odd id", changed("user_id", ["x"]), [], "does not describe"
    yield "shape", trained(**{first: state[first][:, :-1].contiguous()}), [], "does not fit the base"
    yield "extra", trained(extra=torch.zeros(1)), [], "does not fit the base"
    yield "nan", trained(**{first: state[first] * float("nan")}), [], "not finite"
    yield "type", trained(**{first: state[first].half()}), [], "not finite float32"
    pickle = resealed({**exported, ADAPTER: b"\x80\x04\x95cos\nsystem\n"})
    yield "pickle", pickle, [], "no safetensors file"


def test_what_does_not_fit_is_refused_and_leaves_nothing(
    oppu, empty: Path, exported: Bundle, tmp_path: Path
) -> None:
    for number, (what, bundle, options, message) in enumerate(bad(exported)):
        source = tmp_path / f"bad-{number}"
        write_bundle(bundle, source)
        result = oppu("adapters", "import", source, "--run", empty, *options)
        assert result.returncode in (1, 2), f"{what} was let in"
        assert message in result.stderr and "Traceback" not in result.stderr, (what, result.stderr)
        assert not list((empty.parent / "store").rglob("*.safetensors")), what


def test_facts_of_a_foreign_file_are_numbers_or_nothing(
    oppu, empty: Path, exported: Bundle, tmp_path
) -> None:
    manifest = json.loads(exported["oppu.json"])
    manifest["facts"]["adapter"] = {"examples": 3, "last_loss": "[red]x", "seconds": float("inf"), "a b": 1}
    write_bundle({**exported, "oppu.json": json.dumps(manifest).encode()}, tmp_path / "odd")
    assert oppu("adapters", "import", tmp_path / "odd", "--run", empty).returncode == 0
    store = Store(open_run(empty).store_path)
    assert [dict(e.facts) for e in store.entries() if e.kind == "adapter"] == [{"examples": 3}]


def test_an_exported_base_is_whole_or_absent_and_nothing_is_overwritten(
    oppu, run: Path, tmp_path: Path, monkeypatch
) -> None:
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "thesis.txt").write_text("three years of work")
    refused = oppu("base", "export", "--run", run, "--variant", "base", "--out", out)
    assert refused.returncode == 2 and [file.name for file in out.iterdir()] == ["thesis.txt"]

    arguments = ["base", "export", "--run", run, "--variant", "rag_k1", "--out", tmp_path / "base"]
    made = [oppu(*arguments) for _ in range(2)]
    assert [one.returncode for one in made] == [0, 0], made[1].stderr
    card = (tmp_path / "base" / "README.md").read_text()
    assert "rag_k1" in card and str(tmp_path) not in card

    (tmp_path / "base" / ".git").mkdir()
    refused = oppu(*arguments)
    assert refused.returncode == 2 and (tmp_path / "base" / ".git").exists()

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        failed = oppu("base", "export", "--run", run, "--variant", "base", "--out", tmp_path / "new")
    assert failed.returncode == 1 and not (tmp_path / "new").exists()
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".tmp")]
    ambiguous = oppu("base", "export", "--run", run, "--out", tmp_path / "new")
    assert ambiguous.returncode == 2 and "--variant" in ambiguous.stderr


def test_a_quantized_base_is_not_exported(oppu, run: Path, tmp_path: Path) -> None:
    values = json.loads((run / "run.json").read_text())
    del values["checksum"]
    values["config"]["quantize"] = "nf4"
    values["checksum"] = hashlib.sha256(canonical_json(values).encode()).hexdigest()
    (run / "run.json").write_text(json.dumps(values))
    refused = oppu("base", "export", "--run", run, "--variant", "base", "--out", tmp_path / "new")
    assert refused.returncode == 2 and "nf4" in refused.stderr and not (tmp_path / "new").exists()


def test_pushing_under_the_user_s_id_or_without_a_token_is_refused(oppu, run: Path, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setenv("HF_TOKEN_PATH", "/nowhere")
    arguments = ["adapters", "push", USER, "--run", run, "--variant", "base", "--to"]
    named = oppu(*arguments, "me/movies-of-TEST-001")
    assert named.returncode == 2 and "--with-user-id" in named.stderr
    for name in ("me", "me/a/b", "me/a b", "../x", ""):
        assert oppu(*arguments, name).returncode == 2, name
    assert "is no name" in oppu("adapters", "pull", "../etc", "--run", run).stderr


def scorer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: str) -> None:
    """Another package that evaluates runs."""
    about = tmp_path / name / f"{name}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[oppu.scores]\nown = {name}:scores\n")
    (tmp_path / name / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path / name)


def test_packages_that_evaluate_runs_are_asked_for_scores(oppu, run: Path, tmp_path, monkeypatch) -> None:
    show = ("adapters", "show", USER, "--run", run, "--variant", "base")
    code = """
from oppu_core.ownership.card import Score
def scores(run, task, methods, user_id):
    yield Score(methods[-1], f"Likes of {user_id}", 0.25, 0.5, None, 3)
"""
    scorer(tmp_path, monkeypatch, "likes", code)
    shown = oppu(*show)
    assert f"Likes of {USER}" in shown.stdout and "Accuracy" in shown.stdout, shown.stderr
    scorer(tmp_path, monkeypatch, "broken", "def scores(*_): return 1 / 0")
    refused = oppu(*show)
    assert refused.returncode == 2 and "broken:scores" in refused.stderr and "Zero" in refused.stderr
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: ())
    alone = oppu(*show)
    assert alone.returncode == 0 and "Scores" not in alone.stdout, alone.stderr
    assert (
        "It has not been evaluated."
        in export_adapter(open_run(run), USER, None, "base")["README.md"].decode()
    )

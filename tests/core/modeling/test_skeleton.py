"""What is known of a base without its weights, and the cache of it."""

import shutil
from pathlib import Path

import pytest
from oppu_core.errors import ModelError
from oppu_core.modeling import skeleton
from oppu_core.modeling.skeleton import base_skeleton, projection_names, shared_projections, skeleton_of


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "assets"
    monkeypatch.setattr("huggingface_hub.utils._cache_assets.HF_ASSETS_CACHE", str(folder))
    return folder


def refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_model(folder: Path) -> None:
        raise AssertionError(f"made a model of {folder}")

    monkeypatch.setattr(skeleton, "base_skeleton", no_model)


def test_what_is_found_is_kept(toy_folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = base_skeleton(toy_folder)
    found = skeleton_of(toy_folder)
    assert found.parameters == model.num_parameters()
    assert found.projections == tuple(projection_names(model))
    assert found.shared == shared_projections(model)
    refuse(monkeypatch)
    assert skeleton_of(toy_folder) == found
    (file,) = cache.rglob("*.json")
    file.write_text('{"parameters": 1}')
    with pytest.raises(AssertionError, match="made a model"):  # damaged: found out again
        skeleton_of(toy_folder)


def test_another_configuration_is_another_skeleton(
    toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = skeleton_of(toy_folder)
    other = tmp_path / "other"
    shutil.copytree(toy_folder, other)
    refuse(monkeypatch)
    assert skeleton_of(other) == first  # wherever it lies
    text = (other / "config.json").read_text()
    (other / "config.json").write_text(text.replace('"num_hidden_layers": 2', '"num_hidden_layers": 1'))
    with pytest.raises(AssertionError, match="made a model"):
        skeleton_of(other)


def test_a_broken_configuration_is_refused_and_not_kept(
    toy_folder: Path, tmp_path: Path, cache: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(toy_folder, broken)
    (broken / "config.json").write_text('{"model_type": "unheard_of"}')
    with pytest.raises(ModelError, match="cannot be loaded"):
        skeleton_of(broken)
    assert not [*cache.rglob("*.json")]


def test_where_nothing_can_be_kept_it_is_found_out_each_time(
    toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a file"
    file.touch()
    monkeypatch.setattr("huggingface_hub.utils._cache_assets.HF_ASSETS_CACHE", str(file / "assets"))
    assert skeleton_of(toy_folder) == skeleton_of(toy_folder)

"""The built packages hold everything that a run needs."""

import functools
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def wheel_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """wheel_of(package): its wheel, built once."""

    @functools.cache
    def build(package: str) -> Path:
        folder = tmp_path_factory.mktemp(package)
        command = ["uv", "build", "--quiet", "--wheel", "--package", package, "--out-dir", str(folder)]
        subprocess.run(command, cwd=ROOT, check=True, timeout=300)
        (wheel,) = folder.glob("*.whl")
        return wheel

    return build


@pytest.mark.parametrize("package", ["oppu-core", "oppu-eval"])
def test_a_wheel_holds_every_tracked_file_of_its_package(
    package: str, wheel_of: Callable[[str], Path]
) -> None:
    source = ROOT / "packages" / package / "src"
    tracked = {
        str(path.relative_to(source))
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert len(tracked) > 10
    assert tracked <= set(zipfile.ZipFile(wheel_of(package)).namelist())


def test_the_wheel_puts_the_hook_for_lm_eval_at_the_root(wheel_of: Callable[[str], Path]) -> None:
    names = zipfile.ZipFile(wheel_of("oppu-eval")).namelist()
    ours = {name for name in names if not name.startswith(("oppu_eval/", "oppu_eval-"))}
    assert ours == {"oppu_lm_eval.pth", "_oppu_lm_eval/__init__.py"}


def test_the_hook_comes_and_goes_with_the_package(wheel_of: Callable[[str], Path], tmp_path: Path) -> None:
    def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
        )

    def files() -> set[Path]:
        return set((tmp_path / "venv" / "lib").rglob("*"))

    def hooked() -> str:
        code = "import sys; print(any(hasattr(finder, 'extends') for finder in sys.meta_path))"
        done = run(python, "-c", code)
        assert not done.stderr
        return done.stdout.strip()

    assert run("uv", "venv", "--quiet", "--python", sys.executable, "venv").returncode == 0
    python = tmp_path / "venv" / "bin" / "python"
    assert hooked() == "False"
    before = files()
    pip = ("uv", "pip", "install", "--quiet", "--offline", "--no-deps", "--python", python)
    assert run(*pip, wheel_of("oppu-eval")).returncode == 0
    assert hooked() == "True"
    without = run(python, "-c", "import lm_eval.tasks")
    assert without.stderr.endswith("ModuleNotFoundError: No module named 'lm_eval'\n")
    assert "oppu" not in without.stderr
    assert run("uv", "pip", "uninstall", "--quiet", "--python", python, "oppu-eval").returncode == 0
    assert files() == before
    assert hooked() == "False"


def test_the_tiny_base_keeps_within_its_size() -> None:
    from oppu_core.modeling.base import load_base
    from oppu_core.modeling.base_files import TINY_FOLDER

    assert sum(path.stat().st_size for path in TINY_FOLDER.iterdir()) <= 6_000_000
    assert load_base("tiny", device="cpu").parameters <= 3_000_000


def test_core_does_not_know_the_packages_that_stand_on_it() -> None:
    for path in (ROOT / "packages" / "oppu-core" / "src").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "oppu_eval" not in text and "oppu_demo" not in text, path

"""The built packages hold everything that a run needs."""

import subprocess
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("package", ["oppu-core", "oppu-eval"])
def test_a_wheel_holds_every_tracked_file_of_its_package(package: str, tmp_path: Path) -> None:
    command = ["uv", "build", "--quiet", "--wheel", "--package", package, "--out-dir", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    source = ROOT / "packages" / package / "src"
    tracked = {
        str(path.relative_to(source))
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert len(tracked) > 10
    assert tracked <= set(zipfile.ZipFile(wheel).namelist())


def test_the_tiny_base_keeps_within_its_size() -> None:
    from oppu_core.models import TINY_FOLDER, load_base

    assert sum(path.stat().st_size for path in TINY_FOLDER.iterdir()) <= 6_000_000
    assert load_base("tiny", device="cpu").parameters <= 3_000_000


def test_core_does_not_know_the_packages_that_stand_on_it() -> None:
    for path in (ROOT / "packages" / "oppu-core" / "src").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "oppu_eval" not in text and "oppu_demo" not in text, path

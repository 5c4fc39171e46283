"""Writing the demo as a Hugging Face Space: a folder that can be pushed as it is.

Our packages are not in a registry, so the folder has them as wheels, built from the source tree. The Hub
installs ``requirements.txt`` before it has the folder's other files, so ``app.py`` unpacks the wheels itself.
"""

import shutil
import subprocess
import zipfile
from collections.abc import Iterable
from importlib.metadata import PathDistribution, version
from importlib.resources import files
from pathlib import Path

from oppu_core.errors import ConfigError
from oppu_core.storage.files import new_dir

from oppu_demo.templating import render

PACKAGES = ("oppu-core", "oppu-eval", "oppu-demo")
ROOT = Path(__file__).resolve().parents[4]  # of the source tree
# What ZeroGPU offers besides 3.10, which is too old for us.
PYTHON = "3.12.12"
# The Hub refuses binary files in plain Git.
GIT_ATTRIBUTES = "*.whl filter=lfs diff=lfs merge=lfs -text\n"
GIT_IGNORE = "/packages/\n/runs/\n__pycache__/\n"


def write_space(folder: Path) -> None:
    """Write the folder of a Space, all or nothing.

    Args:
        folder: The folder to make; it may exist if it is empty.

    Raises:
        ConfigError: the folder is not empty, there is no source tree, or a wheel cannot be built.
    """
    folder = folder.resolve()  # "." has no name
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(f"{folder} is there already and not empty; choose another folder.")
    if not (ROOT / "apps" / "demo" / "pyproject.toml").is_file():
        raise ConfigError(
            "`oppu demo export-space` builds wheels from the source tree; this oppu came without it. Run "
            "`uv run oppu demo export-space` in a checkout of the repository."
        )
    with new_dir(folder) as space:
        wheels = [_build(package, space / "wheels") for package in PACKAGES]
        texts = {
            "README.md": render("space_readme.md.j2", gradio=version("gradio"), python=PYTHON) + "\n",
            "app.py": files("oppu_demo").joinpath("templates", "space_app.py").read_text(encoding="utf-8"),
            "requirements.txt": "".join(f"{line}\n" for line in _requirements(wheels)),
            ".gitattributes": GIT_ATTRIBUTES,
            ".gitignore": GIT_IGNORE,
        }
        for name, text in texts.items():
            (space / name).write_text(text, encoding="utf-8")


def _build(package: str, folder: Path) -> Path:
    """Build a package's wheel."""
    uv = shutil.which("uv")
    if uv is None:
        raise ConfigError("`oppu demo export-space` builds wheels with uv, which is not installed.")
    before = set(folder.glob("*.whl"))
    command = [uv, "build", "--quiet", "--wheel", "--package", package, "--out-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"The wheel of {package} cannot be built. uv says:\n{done.stderr.strip()}")
    (folder / ".gitignore").unlink(missing_ok=True)  # written by uv; it excludes every wheel
    (wheel,) = set(folder.glob("*.whl")) - before
    return wheel


def _requirements(wheels: Iterable[Path]) -> list[str]:
    """The requirements of our packages, except Gradio, which the Hub installs in the README's version."""
    needs: set[str] = set()
    for wheel in wheels:
        (info,) = (entry for entry in zipfile.Path(wheel).iterdir() if entry.name.endswith(".dist-info"))
        needs |= {need for need in PathDistribution(info).requires or [] if "extra ==" not in need}
    return sorted(need for need in needs if not need.startswith(("oppu-", "gradio")))

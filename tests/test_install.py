"""An editable install, as `make venv` makes it: no folder of the user's hides the package."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]

BUILD = "import sys; from setuptools import build_meta; build_meta.build_editable(sys.argv[1])"
FIND = """
import site, sys
from importlib.util import find_spec
site.addsitedir(sys.argv[1])
print(*(find_spec(name).origin for name in ("edict", "jobs", "pipeline", "schemas")), sep="\\n")
"""


def python(*arguments: str | Path, cwd: Path) -> str:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=cwd, env=env).stdout


def test_a_folder_named_like_the_package_does_not_hide_it(tmp_path: Path) -> None:
    """The working directory is the parent of the clone, `edict`."""
    clone, site = tmp_path / "edict", tmp_path / "site"
    clone.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "edict", "jobs", "pipeline", "schemas"):
        (clone / name).symlink_to(ROOT / name)
    (tmp_path / "pipeline").mkdir()
    python("-c", BUILD, tmp_path, cwd=clone)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    # -S excludes the packages of this Python, and -c puts the working directory first.
    found = python("-S", "-c", FIND, site, cwd=tmp_path).split()
    assert found == [str(clone / name / "__init__.py") for name in ("edict", "jobs", "pipeline", "schemas")]

"""The package, as `make venv` and `pip install` install it."""

import os
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

import edict

ROOT = Path(__file__).parents[1]
PACKAGES = ("edict", "jobs", "pipeline", "schemas")

FIND = """
import site, sys
from importlib.util import find_spec
site.addsitedir(sys.argv[1])
print(*(find_spec(name).origin for name in sys.argv[2:]), sep="\\n")
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a clone in a folder `edict`, with links to the files that a Docker build gets."""
    folder = tmp_path / "edict"
    folder.mkdir()
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            (folder / line[1:]).symlink_to(ROOT / line[1:])
    return folder


def python(*arguments: str | Path, cwd: Path) -> str:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=cwd, env=env).stdout


def build(kind: str, clone: Path) -> Path:
    """Build a wheel of the clone in its parent folder."""
    code = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    python("-c", code, clone.parent, cwd=clone)
    (wheel,) = clone.parent.glob("*.whl")
    return wheel


def test_a_folder_named_like_the_package_does_not_hide_an_editable_install(clone: Path, tmp_path: Path) -> None:
    """The working directory is the parent of the clone, `edict`."""
    (tmp_path / "pipeline").mkdir()
    site = tmp_path / "site"
    zipfile.ZipFile(build("editable", clone)).extractall(site)
    # -S excludes the packages of this Python, and -c puts the working directory first.
    found = python("-S", "-c", FIND, site, *PACKAGES, cwd=tmp_path).split()
    assert found == [str(clone / name / "__init__.py") for name in PACKAGES]


def test_a_wheel_has_the_data_files_and_nothing_but_the_packages(clone: Path) -> None:
    with zipfile.ZipFile(build("wheel", clone)) as wheel:
        names = {Path(name) for name in wheel.namelist()}
    packaged = {name for name in names if not name.parts[0].endswith(".dist-info")}
    assert {name.parts[0] for name in packaged} == set(PACKAGES)
    assert {Path(name, "py.typed") for name in PACKAGES} <= packaged
    list_files = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *PACKAGES]
    files = subprocess.run(list_files, capture_output=True, text=True, check=True, cwd=ROOT).stdout.splitlines()
    assert set(map(Path, files)) == packaged


def test_the_version_is_the_installed_one() -> None:
    assert edict.__version__ == version("edict-pipeline")

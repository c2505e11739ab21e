"""`python -m benchmarks.gpu_check` runs without a GPU, and every part has a result."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.gpu_check.wheels import PACKAGES, PREINSTALLED, UNUSED, missing, pack, slim, unpack

ROOT = Path(__file__).parents[2]


def failures(found: Any) -> Iterator[str]:
    """Yield the messages of the parts that failed or were skipped."""
    if isinstance(found, dict):
        yield from (str(found[name]) for name in ("failed", "skipped") if name in found)
        found = list(found.values())
    if isinstance(found, list):
        for value in found:
            yield from failures(value)


def test_gpu_check_runs_on_a_cpu_with_small_networks(tmp_path: Path) -> None:
    output = tmp_path / "found.json"
    given = ["--device", "cpu", "--small", "--minutes", "60", "--output", str(output)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-m", "benchmarks.gpu_check", *given], cwd=ROOT, env=environment, check=True)
    found = json.loads(output.read_text())
    assert list(failures(found)) == []
    assert found["commands"]["edit"]["reconstructions exact"] == {"True": 8}
    assert found["bits"]["the same in another process"] == {"bfloat16": True, "float16": True, "float32": True}
    for part in (found["bits"][dtype] for dtype in ("bfloat16", "float16", "float32")):
        assert part["called again"] == part["with other neighbours"] == part["round trip"]["differing"] == 0
    for shape, network in {"sd15": "unet", "sdxl": "unet", "flux": "transformer"}.items():
        assert found["shapes"][shape]["size"]["parameters"][network] > 0
        assert found["shapes"][shape]["bfloat16, eager"]["differing"] == 0


def test_wheels_satisfy_all_requirements() -> None:
    """The wheels and the preinstalled packages satisfy all requirements of the present versions."""
    provided = {canonicalize_name(name) for name in (*PACKAGES, *PREINSTALLED, *UNUSED)}
    required = set[str]()
    for package in ("edict-pipeline", *PACKAGES):
        requirements = [Requirement(line.replace("ray[default]", "ray")) for line in requires(package) or ()]
        required |= {one.name for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})}
    assert set(map(canonicalize_name, required)) <= provided


def test_packed_wheel_is_slim_and_installable(tmp_path: Path) -> None:
    wheel = tmp_path / "ray-1-py3-none-any.whl"
    with ZipFile(wheel, "w") as content:
        content.writestr("ray/__init__.py", "core = 1\n")
        content.writestr("ray/jars/ray_dist.jar", "x" * 1000)
        content.writestr("ray-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: ray\nVersion: 1\n")
        content.writestr("ray-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        content.writestr("ray-1.dist-info/RECORD", "")
    slim(wheel)
    assert pack(tmp_path).is_file() and not wheel.exists()
    unpack(tmp_path, tmp_path / "wheels")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--target", str(tmp_path / "site"), str(tmp_path / "wheels" / wheel.name)], check=True)
    assert (tmp_path / "site" / "ray" / "__init__.py").read_text() == "core = 1\n"
    assert not (tmp_path / "site" / "ray" / "jars").exists()
    assert missing(tmp_path / "wheels") == []


def test_missing_packages_are_named(tmp_path: Path) -> None:
    (tmp_path / "torch-2-py3-none-any.whl").touch()
    given = ["-S", "-m", "benchmarks.gpu_check", "--wheels", str(tmp_path)]  # -S excludes installed packages.
    result = subprocess.run([sys.executable, *given], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert "This machine lacks attrs, " in result.stdout and "torch" not in result.stdout

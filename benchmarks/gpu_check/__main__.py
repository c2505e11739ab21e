"""Check one GPU machine: the commands, the bits and the speed. Each part writes its results to a JSON file.

`python -m benchmarks.gpu_check --wheels wheels`. It takes at most eight minutes. If a part fails, its result is the
message. Parts without time left are skipped. `--device cpu --small` runs all of it anywhere, with small networks.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.gpu_check.wheels import missing, unpack

ROOT = Path(__file__).parents[2]


def parse() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    arguments.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="where the networks run")
    arguments.add_argument("--small", action="store_true", help="narrow networks on images of 128 pixels")
    arguments.add_argument("--minutes", type=float, default=8.0, help="time limit; parts that do not fit are skipped")
    arguments.add_argument("--wheels", type=Path, help="install these wheels and this package in a temporary folder")
    arguments.add_argument("--output", type=Path, default=Path("gpu_check.json"), help="the JSON file to write")
    return arguments.parse_args()


def install(wheels: Path, site: Path) -> None:
    """Install a folder of wheels and this package into `site`, without a network and without dependencies."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    pip += ["--disable-pip-version-check", "--no-cache-dir", "--target", str(site)]
    subprocess.run([*pip, *map(str, sorted(wheels.glob("*.whl")))], check=True)
    subprocess.run([*pip, "--upgrade", "--no-build-isolation", str(ROOT)], check=True)


def main() -> int:
    given, began = parse(), time.monotonic()
    if given.wheels is None:
        from benchmarks.gpu_check.check import check

        return check(given, began)
    with tempfile.TemporaryDirectory() as folder:
        wheels, site = Path(folder, "wheels"), Path(folder, "site")
        unpack(given.wheels, wheels)
        if lacking := missing(wheels):
            print(f"This machine lacks {', '.join(lacking)}. Install them, or add their wheels to {given.wheels}.")
            return 2
        install(wheels, site)
        minutes = given.minutes - (time.monotonic() - began) / 60
        options = ["--device", given.device, "--minutes", f"{minutes:.2f}", "--output", str(given.output)]
        path = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))
        return subprocess.run(
            [sys.executable, "-m", "benchmarks.gpu_check", *options, *(["--small"] if given.small else [])],
            env=os.environ | {"PYTHONPATH": path},
        ).returncode


if __name__ == "__main__":
    sys.exit(main())

"""Prepare the folder of wheels that `python -m benchmarks.gpu_check --wheels` installs on a machine without a network.

Run `python -m benchmarks.gpu_check.wheels FOLDER` anywhere with pip and a package registry. The wheels are for Linux on
x86-64, in the versions of constraints.txt, without the files that the check does not need: debug symbols,
the pipelines of diffusers, Ray's Java library, the dashboard's page and the libraries above Ray's core. The machine
itself has the packages in PREINSTALLED.
"""

import argparse
import base64
import lzma
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from hashlib import sha256
from importlib.metadata import distributions
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "annotated-types",
    "braceexpand",
    "diffusers",
    "importlib_metadata",
    "jsonschema",
    "jsonschema-specifications",
    "lazy-importer",
    "obstore",
    "pydantic",
    "pydantic_core",
    "ray",
    "referencing",
    "rpds-py",
    "tabulate",
    "typing_extensions",  # Pydantic needs a newer one than most machines have.
    "typing-inspection",
    "webdataset",
    "zipp",
)
PREINSTALLED = (
    "attrs",
    "click",
    "filelock",
    "huggingface-hub",
    "jinja2",
    "msgpack",
    "numpy",
    "packaging",
    "pillow",
    "protobuf",
    "pyarrow",
    "pyyaml",
    "regex",
    "requests",
    "safetensors",
    "setuptools",
    "torch",
    "tqdm",
    "transformers",
    "typer",
)
# A job that takes every row does not import duckdb. The others are for pipelines that the check does not load.
UNUSED = ("accelerate", "duckdb", "sentencepiece")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux1_x86_64")
EXCLUDED = tuple(
    f"{package}/{name}/"
    for package, names in {
        "diffusers": ("commands", "experimental", "modular_pipelines", "pipelines"),
        "ray": ("jars", "dashboard/client", "air", "cpp", "data", "llm", "rllib", "serve", "train", "tune"),
    }.items()
    for name in names
)

ARCHIVE = "wheels.tar.xz"
FILTERS = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 27}]


def missing(wheels: Path) -> list[str]:
    """Return the packages in PREINSTALLED that neither this machine nor the folder of wheels has."""
    added = {re.sub(r"[-_.]+", "-", wheel.name.split("-")[0]).lower() for wheel in wheels.glob("*.whl")}
    return [name for name in PREINSTALLED if name not in added and not any(distributions(name=name))]


def download(folder: Path, python: str) -> None:
    """Download the wheels of PACKAGES, each in the version of constraints.txt."""
    versions = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    pip += ["--only-binary=:all:", "--implementation", "cp", "--python-version", python, "--dest", str(folder)]
    pip += [f"--platform={platform}" for platform in PLATFORMS]
    subprocess.run([*pip, *(f"{package}=={versions[package]}" for package in PACKAGES)], check=True)


def slim(wheel: Path) -> None:
    """Rewrite a wheel without EXCLUDED and debug symbols, uncompressed, with the RECORD of the remaining files."""
    small, record = wheel.with_suffix(".slim"), list[str]()
    with ZipFile(wheel) as old, ZipFile(small, "w") as new:
        for info in old.infolist():
            if info.is_dir() or info.filename.startswith(EXCLUDED):
                continue
            if info.filename.endswith(".dist-info/RECORD"):
                at = info
                continue
            data = old.read(info)
            if data.startswith(b"\x7fELF"):
                data = stripped(data)
            digest = base64.urlsafe_b64encode(sha256(data).digest()).rstrip(b"=").decode()
            record.append(f'"{info.filename}",sha256={digest},{len(data)}\n')
            new.writestr(info, data, ZIP_STORED)
        new.writestr(at, "".join([*record, f"{at.filename},,\n"]), ZIP_STORED)
    small.replace(wheel)


def stripped(binary: bytes) -> bytes:
    """Return a program or library without the symbols that it does not need to run; unchanged without binutils."""
    if shutil.which("strip") is None:
        return binary
    with tempfile.NamedTemporaryFile() as file:
        file.write(binary)
        file.flush()
        subprocess.run(["strip", "--strip-unneeded", file.name], check=True)
        return Path(file.name).read_bytes()


def pack(folder: Path) -> Path:
    """Move the wheels of a folder to one archive in it, compressed together because Ray's programs share much code."""
    with (
        lzma.open(folder / ARCHIVE, "wb", filters=FILTERS) as stream,
        tarfile.open(fileobj=stream, mode="w|") as archive,
    ):
        for wheel in sorted(folder.glob("*.whl")):
            archive.add(wheel, wheel.name)
            wheel.unlink()
    return folder / ARCHIVE


def unpack(folder: Path, to: Path) -> None:
    """Copy the wheels of a folder, and those of its archive, to another folder."""
    to.mkdir()
    if (folder / ARCHIVE).is_file():
        with tarfile.open(folder / ARCHIVE) as archive:
            archive.extractall(to, filter="data")
    for wheel in folder.glob("*.whl"):
        shutil.copy(wheel, to)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    arguments.add_argument("folder", type=Path, help="where the wheels go")
    arguments.add_argument("--python", default="3.12", help="the machine's version of Python")
    given = arguments.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    download(given.folder, given.python)
    for wheel in given.folder.glob("*.whl"):
        slim(wheel)
    archive = pack(given.folder)
    print(f"{archive.stat().st_size / 2**20:.1f} MiB in {archive}")


if __name__ == "__main__":
    main()

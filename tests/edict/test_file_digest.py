"""The digest of a large file is computed once per node."""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from edict import file_digest
from edict.file_digest import sha256_of
from edict.model_files import weights_digest


@pytest.fixture
def computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect the files whose content was read. Every file counts as large and as settled."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(file_digest.tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(file_digest, "MIN_CACHED_BYTES", 0)
    monkeypatch.setattr(file_digest, "SETTLING_SECONDS", -1.0)
    names, compute = list[str](), hashlib.file_digest

    def counted(stream: Any, name: str) -> Any:
        names.append(Path(stream.name).name)
        return compute(stream, name)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    return names


def test_workers_that_start_together_read_a_file_once(tmp_path: Path, computed: list[str]) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"w" * 10_000_000)
    with ThreadPoolExecutor(4) as workers:
        digests = list(workers.map(sha256_of, [file] * 4))
    assert set(digests) == {hashlib.sha256(file.read_bytes()).hexdigest()}
    assert computed == ["weights"]


def test_a_file_that_changed_is_read_again(tmp_path: Path, computed: list[str]) -> None:
    file = tmp_path / "weights"
    for content in (b"one", b"two"):
        file.write_bytes(content)
        assert sha256_of(file) == hashlib.sha256(content).hexdigest()
    assert computed == ["weights"] * 2


def test_a_damaged_record_is_replaced(tmp_path: Path, computed: list[str]) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    digest = sha256_of(file)
    records = [path for path in (tmp_path / "temporary").glob("*/*") if path.suffix != ".lock"]
    assert [record.read_text() for record in records] == [digest] and computed == ["weights"]
    records[0].write_text("")
    assert sha256_of(file) == sha256_of(file) == digest
    assert computed == ["weights"] * 2


def test_a_folder_that_others_can_write_is_not_used(tmp_path: Path, computed: list[str]) -> None:
    file, folder = tmp_path / "weights", tmp_path / "temporary" / f"edict-{os.getuid()}"
    file.write_bytes(b"one")
    digest = hashlib.sha256(b"one").hexdigest()
    folder.write_text("a file of another program")
    assert sha256_of(file) == sha256_of(file) == digest
    folder.unlink()
    folder.mkdir()
    folder.chmod(0o777)
    assert sha256_of(file) == sha256_of(file) == digest
    assert computed == ["weights"] * 4 and not [*folder.iterdir()]


@pytest.mark.parametrize(("setting", "value"), [("SETTLING_SECONDS", 60.0), ("MIN_CACHED_BYTES", 1 << 26)])
def test_new_and_small_files_are_not_cached(
    setting: str, value: float, tmp_path: Path, computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_digest, setting, value)
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    assert sha256_of(file) == sha256_of(file)
    assert computed == ["weights"] * 2


def test_the_digest_of_a_model_is_the_same_from_records(folder: Callable[[str], Path], computed: list[str]) -> None:
    first = weights_digest(folder("sd1"))
    count = len(computed)
    assert weights_digest(folder("sd1")) == first and len(computed) == count > 0

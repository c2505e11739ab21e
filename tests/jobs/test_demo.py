"""The demo: its specs, and a small run of all three steps."""

import re
import tarfile
from pathlib import Path

import pytest
import ray

from jobs.demo import main
from jobs.demo.main import SHARD, run_demo, write_specs
from jobs.preview.build import preview
from jobs.prompts import prompts, variants
from jobs.spec_file import load
from pipeline.io.samples import Sample, read_samples
from pipeline.io.shard_index import index_shard
from schemas.specs import EditSpec


def test_the_specs_load_and_every_edit_changes_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    invert_file, edit_file = write_specs(Path("demo"))
    assert preview(load(invert_file)).samples == 64
    edit = load(edit_file)
    assert isinstance(edit, EditSpec)
    index = index_shard(str(SHARD))
    samples = read_samples(index.url, size=index.size, etag=index.etag, entries=index.entries)
    captions = [sample.caption for sample in samples if isinstance(sample, Sample)]
    found = variants(edit.edits)
    changed = [variant.name for caption in captions for variant, _ in prompts(caption, {}, found)]
    assert {variant.name for variant in found} == set(changed)


def test_the_demo_starts_ray_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run the demo on four images and two steps, with one worker."""
    with tarfile.open(SHARD) as shard, tarfile.open(tmp_path / "four.tar", "w") as four:
        for member in list(shard)[:12]:
            four.addfile(member, shard.extractfile(member))
    small = {"steps: 50": "steps: 2", "count: 2": "count: 1", "batch_size: 16": "batch_size: 4"}
    for name in ("INVERT", "EDIT"):
        text = getattr(main, name)
        for old, new in small.items():
            text = text.replace(old, new)
        monkeypatch.setattr(main, name, text)
    monkeypatch.setattr(main, "SHARD", tmp_path / "four.tar")
    starts, init = [], ray.init
    monkeypatch.setattr(ray, "init", lambda *given, **more: (starts.append(1), init(*given, **more)))
    assert run_demo(tmp_path / "demo")
    assert len(starts) == 1 and not ray.is_initialized()
    said = capsys.readouterr().out
    assert "4 of 4 pairs regenerate their image latent exactly" in said
    assert re.search(
        r"\n(\d+) edited, (\d+) filtered \(the caption would not change\), 0 rejected: 12 of 12 images\n$", said
    )
    for line in said.splitlines():
        if line.startswith(f"  {tmp_path}"):
            assert list(Path("/").glob(line.strip().lstrip("/"))), line

"""The demo's specs, as it writes them."""

from pathlib import Path

import pytest

from jobs.demo.main import SHARD, write_specs
from jobs.preview import preview
from jobs.prompts import prompts, variants
from jobs.spec import load
from pipeline.shards import Sample, index_shard, read_samples
from schemas.specs import EditSpec


def test_the_specs_load_and_every_edit_changes_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    invert_file, edit_file = write_specs(Path("demo"))
    assert "invert 64 samples of 1 shards" in preview(load(invert_file))
    edit = load(edit_file)
    assert isinstance(edit, EditSpec)
    index = index_shard(str(SHARD))
    samples = read_samples(index.url, size=index.size, etag=index.etag, entries=index.entries)
    captions = [sample.caption for sample in samples if isinstance(sample, Sample)]
    found = variants(edit.edits)
    changed = [variant.name for caption in captions for variant, _ in prompts(caption, {}, found)]
    assert {variant.name for variant in found} == set(changed)

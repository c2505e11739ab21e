"""Checkpoints and LoRAs of users: `edict plan` gives an error in one line, or all weights are loaded."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from edict import EDICT
from edict.models import describe
from jobs.cli import app
from pipeline.plan.invert_task import invert_task, stored_inversion
from pipeline.plan.job import open_job
from pipeline.store.errors import StoreError
from pipeline.store.store import Store
from schemas.specs import InvertSpec
from tests.corpus.case import Case
from tests.corpus.checkpoints import LAYOUTS, REFUSALS
from tests.corpus.shards import WHOLE
from tests.edict.checkpoints import Folder, save
from tests.pipeline.earlier import as_format_2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Return a function that saves a small checkpoint of a kind at its first call, and returns its folder."""
    root = tmp_path_factory.mktemp("checkpoints")
    return lambda kind: root / kind if (root / kind).exists() else save(kind, root / kind)


def ids(cases: list[Any]) -> Any:
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


def written(case: Case[Any], folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Write the checkpoint to ./m and a spec that names it. Return the spec's `model`."""
    monkeypatch.chdir(tmp_path)
    model = {"path": "./m", **(case.build(folder, tmp_path / "m") or {})}
    Path("demo.tar").write_bytes(WHOLE)
    spec = {"kind": "invert", "input": "demo.tar", "output": "latents", "sampler": {"steps": 2}, "model": model}
    Path("spec.json").write_text(json.dumps(spec))
    return model


@ids(REFUSALS)
def test_a_checkpoint_is_refused_in_one_line(
    case: Case[Any], folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(case, folder, tmp_path, monkeypatch)
    result = CliRunner().invoke(app, ["plan", "spec.json"])
    assert result.exit_code == 2, result.exc_info
    assert result.stdout == ""
    assert result.stderr.replace(f"{tmp_path}/", "").splitlines()[-1:] == [f"error: {case.message}"]
    assert "Traceback" not in result.stderr


@ids(LAYOUTS)
def test_a_layout_loads_with_every_weight(
    case: Case[Any], folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are those of the small checkpoint that it was made from, to float16."""
    model = written(case, folder, tmp_path, monkeypatch)
    result = CliRunner().invoke(app, ["plan", "spec.json"])
    assert result.exit_code == 0, result.output
    lora = model.get("lora", {}).get("path")
    loaded = EDICT.from_pretrained(model["path"], variant=model.get("variant"), lora=lora).backend
    plain = EDICT.from_pretrained(folder(case.results[0].split()[1])).backend
    assert loaded.component_classes.keys() == plain.component_classes.keys()
    for part in plain.component_classes:
        if part.startswith("tokenizer") or getattr(plain, part) is None:
            continue
        before = getattr(plain, part).state_dict()
        for name, weight in getattr(loaded, part).state_dict().items():
            old, changed = before[name], lora is not None and name.endswith("0.attn1.to_q.weight")
            assert torch.allclose(weight[: len(old)], old, atol=1e-3) != (changed and "down_blocks" in name), name


@ids([case for case in LAYOUTS if case.name in ("vectors", "statistics")])
def test_a_store_whose_version_ignored_a_setting_of_the_checkpoint_is_refused(
    case: Case[Any], folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier versions ignored the setting, and their pairs have another meaning."""
    written(case, folder, tmp_path, monkeypatch)
    spec = InvertSpec.model_validate_json(Path("spec.json").read_text())
    store, job = Store(spec.output, create=True), invert_task(spec)
    open_job(store, job.record)
    assert stored_inversion(store).fingerprint == job.fingerprint
    model = describe(tmp_path / "m")
    record = as_format_2(job.record, model.schedule(spec.sampler))
    Path("latents/job.json").write_text(
        json.dumps(record | {"fingerprint": record["fingerprint"] | model.interpretation()})
    )
    assert stored_inversion(store).fingerprint.sampling == job.fingerprint.sampling
    Path("latents/job.json").write_text(json.dumps(record))
    with pytest.raises(StoreError, match="was inverted by an earlier version, which ignored the"):
        stored_inversion(store)

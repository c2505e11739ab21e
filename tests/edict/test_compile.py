"""Compiled networks: pairs regenerate exactly in every process, and other uses are errors."""

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch._inductor.utils import fresh_cache

from edict import EDICT, Control, ModelError, Pair
from edict.samplers import sampling
from jobs.prompts import resolve
from pipeline.messages import Machine
from pipeline.plan.edit_task import EditError, edit_task
from pipeline.plan.invert_task import invert_task
from pipeline.plan.job import check_job, open_job
from pipeline.plan.job_changes import JobChanged
from pipeline.plan.selection import read_selection
from pipeline.store.store import Store
from pipeline.workers.model import NotCompiled, batch_errors, load_model
from schemas.specs import EditSpec, InvertSpec
from tests.edict.checkpoints import Folder

KIND = "pixart-sigma"  # It has two layers, so it compiles fastest.
TEXTS = ["a red heart", "", "dog face"]
COMPILER = os.environ.get("CXX", "g++")
CPU = Machine("cpu", 1, 0.0)
ELSEWHERE = """
import pickle, sys, torch
from edict import EDICT

torch.set_num_threads(int(sys.argv[3]))
with open(sys.argv[2], "rb") as file:
    pair, texts = pickle.load(file)
model = EDICT.from_pretrained(sys.argv[1], dtype=torch.bfloat16, compile=True)
print(*model.generate(pair, texts, output_type="latent").digests())
"""


# These tests are skipped without a compiler, but not in CI.
pytestmark = pytest.mark.skipif(
    not os.environ.get("CI") and shutil.which(COMPILER) is None, reason=f"there is no C++ compiler: {COMPILER}"
)


def inverted(model: EDICT, start: Pair, steps: int = 4, batch_size: int = 2) -> Pair:
    """Return a pair inverted with a guidance interval, so that there are calls of two shapes."""
    interval = (1.0, 1000.0)
    assert 0 < len(model.backend.schedule(sampling(steps=steps)).timesteps_outside(interval)) < steps
    return model.invert(
        start, TEXTS, steps=steps, guidance_scale=7.0, guidance_interval=interval, batch_size=batch_size
    )


@pytest.fixture(scope="module")
def compiled(folder: Folder) -> EDICT:
    return EDICT.from_pretrained(folder(KIND), compile=True)


@pytest.fixture(scope="module")
def start(compiled: EDICT, images: list[Image.Image]) -> Pair:
    return compiled.encode(images[:3])


@pytest.fixture(scope="module")
def pair(compiled: EDICT, start: Pair) -> Pair:
    return inverted(compiled, start)


def test_a_pair_of_a_compiled_network_regenerates_exactly(
    compiled: EDICT, start: Pair, pair: Pair, folder: Folder
) -> None:
    same = compiled.generate(pair, TEXTS, output_type="latent")
    assert same.digests() == start.digests()
    plain = inverted(EDICT.from_pretrained(folder(KIND)), start)
    assert plain.digests() != pair.digests()  # Otherwise nothing was compiled.
    assert (plain.x - pair.x).abs().max() < 2**6


def test_a_compiled_bfloat16_network_is_exact_across_processes(folder: Folder, tmp_path: Path, start: Pair) -> None:
    model = EDICT.from_pretrained(folder(KIND), dtype=torch.bfloat16, compile=True)
    pair = model.invert(start, TEXTS, steps=3, guidance_scale=1.0, batch_size=2)
    assert model.generate(pair, TEXTS, output_type="latent").digests() == start.digests()
    (tmp_path / "pair").write_bytes(pickle.dumps((pair, TEXTS)))
    given = [str(folder(KIND)), str(tmp_path / "pair"), str(torch.get_num_threads())]
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    result = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *given], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == start.digests()
    assert any((tmp_path / "cache").rglob("*.so"))


def test_each_shape_is_compiled_once_and_nothing_runs_uncompiled(compiled: EDICT, start: Pair, pair: Pair) -> None:
    with torch.compiler.set_stance("fail_on_recompile"):
        inverted(compiled, start, steps=5)
    with (
        torch._dynamo.config.patch(recompile_limit=2),
        pytest.raises(NotCompiled, match=r"a batch of 1: leave model.compile out"),
        batch_errors(1, compiled.device),
    ):
        inverted(compiled, start, batch_size=1)


def test_without_a_compiler_no_model_is_loaded(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.compiler.reset()
    missing = torch._inductor.config.patch({"cpp.cxx": (None, "/no/such/compiler")})
    with missing, fresh_cache(), pytest.raises(ModelError, match=r"^[^\n]*No working C\+\+ compiler[^\n]*g\+\+[^\n]*$"):
        EDICT.from_pretrained(folder("sd1"), compile=True)
    torch.compiler.reset()
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    with pytest.raises(ModelError, match="turned off"):
        EDICT.from_pretrained(folder("sd1"), compile=True)


def test_attention_control_of_a_compiled_network_is_an_error(folder: Folder, start: Pair) -> None:
    model = EDICT.from_pretrained(folder("sd1"), compile=True)
    with pytest.raises(ModelError, match="attention control changes the network's layers"):
        model.edit(start, TEXTS, [["a blue heart"], [], []], control=Control())


def test_all_workers_of_a_job_compile_as_the_job_records(folder: Folder, tmp_path: Path) -> None:
    """Compiled and uncompiled rows do not mix. Verification and edits also compile. Control is an error."""

    def spec(**model: Any) -> InvertSpec:
        fields = {"kind": "invert", "input": "a.tar", "output": str(tmp_path / "latents")}
        return InvertSpec.model_validate(fields | {"model": {"path": str(folder("sd1")), **model}})

    plain, given = spec(), spec(compile=True)
    before, job = invert_task(plain), invert_task(given)
    assert job.fingerprint == before.fingerprint.model_copy(update={"compile": True})
    for one, expected in ((before, False), (job, True)):
        assert load_model(one.weights, CPU).backend.compiled == expected
    latents = Store(given.output, create=True)
    open_job(latents, job.record)
    with pytest.raises(JobChanged, match="compile: True in the store, False in the spec"):
        check_job(latents, before.record)
    edit = {"name": "controlled", "prompt": "{caption}, in snow"}
    fields = {"kind": "edit", "latents": given.output, "output": str(tmp_path / "edits")}
    for control in ({}, None):
        wanted = EditSpec.model_validate(fields | {"edits": [edit | {"control": control}]})
        edits = resolve(wanted.edits)
        if control is None:
            assert edit_task(wanted, latents, edits, read_selection(wanted)).inversion.fingerprint.compile
        else:
            with pytest.raises(EditError, match="edit 'controlled': attention control changes the network"):
                edit_task(wanted, latents, edits, read_selection(wanted))

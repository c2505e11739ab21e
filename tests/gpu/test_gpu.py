"""Tests that need a GPU; skipped without one. `python -m benchmarks.gpu_check` measures more."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch

from benchmarks.gpu_check import bits
from edict import EDICT, Control, determinism
from edict.control import generation
from edict.determinism import enough_memory
from pipeline.workers.model import TooLarge, batch_errors
from pipeline.workers.provenance import processor, versions

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module")
def model() -> EDICT:
    return EDICT.from_pretrained(dtype=torch.bfloat16, device="cuda")


@pytest.mark.parametrize("dtype", bits.DTYPES)
@pytest.mark.parametrize("sampler", ["edict", "bdia", "obelm"])
def test_round_trip_is_exact(dtype: torch.dtype, sampler: str) -> None:
    model = EDICT.from_pretrained(dtype=dtype, device="cuda")
    found = bits.round_trip(model, 16, 4, sampler)
    assert found["differing"] == 0 and found["faults"] == []
    assert found["changed by the inversion"] > 0


@pytest.mark.parametrize("dtype", bits.DTYPES)
def test_bits_depend_neither_on_other_samples_nor_on_the_process(dtype: torch.dtype) -> None:
    found = bits.independence(EDICT.from_pretrained(dtype=dtype, device="cuda"), 16)
    assert found["called again"] == found["with other neighbours"] == 0
    assert bits.in_another_process(None, "cuda", 16)[str(dtype)] == found["sha256"]


def test_memory_shortage_that_torch_recovers_from_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(determinism, "_algorithm_changed", Event())  # Other tests of this process need the original.
    device = torch.device("cuda")
    with enough_memory(device):
        torch.zeros(8, device=device)
    recovers = suppress(torch.OutOfMemoryError)  # Torch does the same when it tries cuDNN's plans.
    with pytest.raises(TooLarge, match="another algorithm"), batch_errors(1, device), recovers:
        torch.empty(2**46, dtype=torch.uint8, device=device)


def test_commit_has_the_gpu_and_its_libraries() -> None:
    assert processor("cuda").endswith(f", {torch.cuda.get_device_properties().multi_processor_count} SMs")
    assert {"cuda", "cudnn", "torch"} <= versions("cuda").keys()


def test_attention_control_does_not_synchronize_with_the_gpu(model: EDICT, monkeypatch: pytest.MonkeyPatch) -> None:
    noise, _ = model.integrate(bits.latents(model, 2, 4), bits.captions(2), 0)
    generate = generation.generate

    def without_synchronizing(*args: Any, **kwargs: Any) -> Any:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return generate(*args, **kwargs)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(generation, "generate", without_synchronizing)
    _, faults = model.edit(noise, bits.captions(2), [["a blue heart on a red background"], []], control=Control())
    assert not faults


def test_gpu_check_completes(tmp_path: Path) -> None:
    output = tmp_path / "found.json"
    given = ["--small", "--output", str(output)]
    subprocess.run([sys.executable, "-m", "benchmarks.gpu_check", *given], cwd=ROOT, env=os.environ, check=True)
    assert json.loads(output.read_text())["commands"]["edit"]["reconstructions exact"].keys() == {"True"}

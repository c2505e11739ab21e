"""Precision and weight layout of network and autoencoder, as a job records and a worker loads them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from edict import EDICT
from edict.errors import ModelError
from edict.models.flux import positions
from pipeline.messages import Machine
from pipeline.plan.invert_task import invert_task
from pipeline.workers.model import load_model
from schemas.fingerprint import Fingerprint
from schemas.specs import InvertSpec, ModelSpec

CPU = Machine("cpu", 1, 0)
TEXTS = ["a red heart", "a dog", "a cat"]
Folder = Callable[[str], Path]


def spec_of(model: dict[str, Any], **workers: Any) -> InvertSpec:
    fields = {"kind": "invert", "input": "a.tar", "output": "latents", "model": model, "workers": workers}
    return InvertSpec.model_validate(fields)


@pytest.mark.parametrize(
    ("dtype", "gpus", "expected"),
    [
        ("auto", 0, "float32"),
        ("auto", 1, "bfloat16"),
        ("auto", 0.5, "bfloat16"),
        ("float32", 1, "float32"),
        ("float16", 1, "float16"),
        ("bfloat16", 0, "bfloat16"),
    ],
)
def test_auto_is_resolved_by_the_device(dtype: str, gpus: float, expected: str) -> None:
    assert spec_of({"dtype": dtype}, gpus=gpus).dtype == expected
    assert spec_of({}).model.dtype == "auto"


def test_the_fingerprint_has_the_settings_that_change_bits(folder: Folder) -> None:
    def made(model: dict[str, Any], gpus: float = 0) -> Fingerprint:
        return invert_task(spec_of({"path": str(folder("sd1")), **model}, gpus=gpus)).fingerprint

    plain = made({})
    assert (plain.dtype, plain.vae_dtype, plain.channels_last) == ("float32", "float32", False)
    assert made({"dtype": "float32"}) == plain
    assert made({}, gpus=1) == plain.model_copy(update={"dtype": "bfloat16"})
    more = {"channels_last": True, "vae_dtype": "bfloat16"}
    assert made(more) == plain.model_copy(update=more)
    ModelSpec.model_validate({"dtype": "float32"})  # Every job.json of an earlier version has this.


def test_tf32_is_for_gpus() -> None:
    assert spec_of({"vae_dtype": "tf32"}, gpus=1).model.vae_dtype == "tf32"
    with pytest.raises(ValidationError, match="CPUs have no TF32"):
        spec_of({"vae_dtype": "tf32"})


def test_a_worker_loads_what_the_job_records(folder: Folder) -> None:
    """The round trip is exact, with other last bits."""
    path = {"path": str(folder("sd1"))}
    images = [Image.new("RGB", (16, 16), color) for color in ("red", "green", "blue")]
    digests, decoded = [], []
    for more in ({}, {"channels_last": True}, {"vae_dtype": "bfloat16"}):
        spec = spec_of(path | more)
        weights = invert_task(spec).weights
        model = load_model(weights, CPU)
        start = model.encode(images)
        pair = model.invert(start, TEXTS, steps=3)
        assert model.generate(pair, TEXTS, output_type="latent").digests() == start.digests()
        digests.append(start.digests())
        latents = start.to_float()[0].float()
        decoded.append(model.backend.decode(latents))
        assert decoded[-1].dtype == torch.float32
        assert model.backend.vae.dtype == (torch.bfloat16 if "vae_dtype" in more else torch.float32)
        kernels = [weight for weight in model.network.parameters() if weight.ndim == 4 and weight.shape[2] > 1]
        assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels) == (
            "channels_last" in more
        )
    assert digests[2] != digests[0]
    assert torch.allclose(decoded[2], decoded[0], atol=0.1)


def test_a_gpu_without_bfloat16_is_an_error(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    spec = spec_of({"path": str(folder("sd1"))}, gpus=1)
    weights = invert_task(spec).weights
    with pytest.raises(ModelError, match=r"Tesla T4 on \S+ has no bfloat16: set model.dtype"):
        load_model(weights, Machine("cuda", 1, 1))


def test_positions_of_flux_are_made_once() -> None:
    given = (2, 3, torch.bfloat16, torch.device("cpu"))
    assert positions(*given) is positions(*given)
    assert positions(*given).tolist() == [[0, row, column] for row in range(2) for column in range(3)]


def test_tf32_applies_only_within_the_autoencoder(folder: Folder) -> None:
    model = EDICT.from_pretrained(folder("sd1"), vae_dtype="tf32")
    settings = list[tuple[bool, bool]]()
    for half in (model.backend.vae.encoder, model.backend.vae.decoder):
        half.register_forward_pre_hook(
            lambda *_: settings.append((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))
        )
    model.decode(model.encode([Image.new("RGB", (16, 16))]).to_float()[0])
    assert settings == [(True, True)] * 2
    assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32

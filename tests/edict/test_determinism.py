"""The settings for deterministic networks, and the guard against libraries that recover from a lack of memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from threading import Event

import pytest
import torch
from PIL import Image

import edict.inversion
from edict import EDICT, Control, determinism
from edict.determinism import enough_memory
from edict.errors import ModelError
from pipeline.workers.model import TooLarge, batch_errors
from pipeline.workers.provenance import gpu_versions, versions

GPU = torch.device("cuda")
Folder = Callable[[str], Path]


@pytest.fixture
def failed_allocations(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Set the count of failed allocations by hand, because there is no GPU here."""
    monkeypatch.setattr(determinism, "_algorithm_changed", Event())
    count = {"num_ooms": 3}
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: count)
    return count


def test_a_recovered_lack_of_memory_is_an_error(failed_allocations: dict[str, int]) -> None:
    with enough_memory(GPU):
        pass  # Failures before the block do not count.
    with pytest.raises(torch.OutOfMemoryError, match="another algorithm"), enough_memory(GPU):
        failed_allocations["num_ooms"] += 1


def test_no_block_runs_after_a_recovered_lack_of_memory(failed_allocations: dict[str, int]) -> None:
    with pytest.raises(TooLarge, match=r"a batch of 4 does not fit .*another algorithm"), batch_errors(4, GPU):
        failed_allocations["num_ooms"] += 1
    # cuDNN keeps the other algorithm, without another failed allocation.
    with pytest.raises(torch.OutOfMemoryError, match="in a new process"), enough_memory(GPU):
        raise AssertionError("the block does not run")
    with enough_memory(torch.device("cpu")):
        pass


def test_every_use_of_a_network_is_guarded(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """tests/gpu has the same test with a real GPU; here the guard only counts."""
    guarded = list[str]()

    @contextmanager
    def guard(device: torch.device) -> Iterator[None]:
        guarded.append("entered")
        yield
        guarded.append("left")

    monkeypatch.setattr(edict.inversion, "enough_memory", guard)
    model = EDICT.from_pretrained(folder("sd1"))
    inner = model.backend
    for part in (inner.vae.encoder, inner.vae.decoder, inner.network, inner.text_encoder):
        part.register_forward_pre_hook(lambda *_: guarded.append("used"))
    pair = model.encode([Image.new("RGB", (16, 16), "red")] * 2)
    noise = model.invert(pair, ["a dog", "a cat"], steps=2)
    clean, _ = model.edit(noise, ["a dog", "a cat"], [["a red dog"], []], control=Control(1, 1))
    model.decode(clean.to_float()[0])
    outside = [after for before, after in pairwise(["left", *guarded]) if before == "left" and after == "used"]
    assert guarded.count("used") > 4 and outside == []


def test_an_error_does_not_hide_a_recovered_lack_of_memory(failed_allocations: dict[str, int]) -> None:
    with pytest.raises(torch.OutOfMemoryError, match="of torch"), enough_memory(GPU):
        failed_allocations["num_ooms"] += 1
        raise torch.OutOfMemoryError("of torch")
    with pytest.raises(torch.OutOfMemoryError, match="of torch"), enough_memory(GPU):
        failed_allocations["num_ooms"] += 2  # cuDNN recovered from the first.
        raise torch.OutOfMemoryError("of torch")
    with pytest.raises(torch.OutOfMemoryError, match="in a new process"), enough_memory(GPU):
        raise AssertionError("the block does not run")


def test_an_error_of_the_block_is_not_replaced(failed_allocations: dict[str, int]) -> None:
    with pytest.raises(KeyError), enough_memory(GPU):
        failed_allocations["num_ooms"] += 1
        raise KeyError


def test_on_a_cpu_nothing_is_counted(failed_allocations: dict[str, int]) -> None:
    with enough_memory(torch.device("cpu")):
        failed_allocations["num_ooms"] += 1


def test_attention_kernels_do_not_depend_on_cudnn(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.backends.cuda.enable_cudnn_sdp(True)
    EDICT.from_pretrained(folder("sd1"))
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert torch.backends.cuda.flash_sdp_enabled() and torch.backends.cuda.mem_efficient_sdp_enabled()
    monkeypatch.setenv("DIFFUSERS_ATTN_BACKEND", "native")  # diffusers' default
    EDICT.from_pretrained(folder("sd1"))
    monkeypatch.setenv("DIFFUSERS_ATTN_BACKEND", "sage")
    with pytest.raises(ModelError, match="Unset DIFFUSERS_ATTN_BACKEND"):
        EDICT.from_pretrained(folder("sd1"))
    monkeypatch.delenv("DIFFUSERS_ATTN_BACKEND")
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    with pytest.raises(ModelError, match="Unset NVIDIA_TF32_OVERRIDE"):
        EDICT.from_pretrained(folder("sd1"))


def test_a_commit_has_the_versions_of_the_gpus_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91900)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (tmp_path / "nvidia-smi").write_text(
        "#!/bin/sh\necho '| NVIDIA-SMI 580.159.03     Driver Version: 580.159.04     CUDA Version: 13.0  |'\n"
    )
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert gpu_versions() == {"cuda": "13.0", "cudnn": "91900", "driver": "580.159.04"}
    assert versions.__wrapped__("cuda") == versions("cpu") | gpu_versions()
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    assert "driver" not in gpu_versions()

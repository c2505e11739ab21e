"""Dependence of a prediction's bits on the slot, on the rest of the batch, and on the process.

All calls are as in a job: guided, in one batch shape. A count is the number of samples with other bits than in the
first call.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from benchmarks.harness import differing_integers
from edict import EDICT, Pair
from edict.lattice import to_lattice
from edict.samplers import sampling, with_defaults
from edict.samplers.base import BITS

CAPTIONS = ("a red heart on a blue background", "a bear", "two green apples", "a star, at night")
STEPS, GUIDANCE = 50, 7.0
DTYPES = (torch.bfloat16, torch.float16, torch.float32)

Found = dict[str, Any]


def load(path: Path | None, dtype: torch.dtype, device: str) -> EDICT:
    """Load the model at `path`, or the shipped one, without progress bars."""
    model = EDICT.from_pretrained(path, dtype=dtype, device=device)
    model.set_progress_bar_config(disable=True)
    return model


def captions(count: int) -> list[str]:
    """Return captions that differ from their neighbours."""
    return [CAPTIONS[i % len(CAPTIONS)] for i in range(count)]


def latents(model: EDICT, count: int, executed: int, sampler: str = "edict") -> Pair:
    """Return random clean latents as one batch, at the end of the last `executed` of STEPS steps."""
    config = model.direct.vae.config
    side = model.size // 2 ** (len(config.block_out_channels) - 1)
    size = (count, config.latent_channels, side, side)
    noise = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(model.device)
    end = model.backend.clean_end()
    x = to_lattice(noise, end.scale(0), BITS)
    clean = Pair(x, x.clone(), end, 0, with_defaults(sampling(guidance_scale=GUIDANCE, bits=BITS), 0), count)
    return model.prepare(clean, sampling(steps=STEPS, strength=executed / STEPS, guidance_scale=GUIDANCE, name=sampler))


@torch.inference_mode()
def independence(model: EDICT, count: int) -> Found:
    """Predict in a batch of `count`, and again with the samples in other slots and with other samples."""
    start = latents(model, count, 1)
    x, texts, timestep = start.to_float()[0], captions(count), start.schedule.timesteps[0]

    def predict(order: Sequence[int]) -> torch.Tensor:
        return model.direct.predictor([texts[i] for i in order], GUIDANCE)(x[list(order)], timestep)

    def differing(order: Sequence[int], slots: Sequence[int]) -> int:
        """Count the `slots` whose bits are not those of the sample's first prediction."""
        again = predict(order)
        return sum(not torch.equal(again[slot], whole[order[slot]]) for slot in slots)

    everyone = range(count)
    whole = predict(everyone)
    return {
        "batch": count,
        "std": float(whole.float().std()),
        "called again": differing(everyone, everyone),
        "in reversed slots": differing([*reversed(everyone)], everyone),
        "in the next slot": differing([(i - 1) % count for i in everyone], everyone),
        "with other neighbours": differing([i if i % 2 == 0 else 0 for i in everyone], range(0, count, 2)),
        "with copies in the free slots": differing([0] * count, everyone),
        "sha256": sha256(whole.float().cpu().numpy().tobytes()).hexdigest(),
    }


def round_trip(model: EDICT, count: int, executed: int, sampler: str = "edict") -> Found:
    """Invert and regenerate; count the integers that the inversion changed, and those that differ at the end.

    Regeneration runs twice: in the slots of the inversion, and in reversed ones.
    """
    start, texts = latents(model, count, executed, sampler), captions(count)
    noise, faults = model.integrate(start, texts, 0)

    def regenerated(slots: Sequence[int]) -> int:
        again, more = model.integrate(noise, texts, start.position, slots=slots)
        faults.update(more)
        return differing_integers(again, start)

    return {
        "batch": count,
        "steps": start.position,
        "integers": 2 * start.x.numel(),
        "changed by the inversion": differing_integers(noise, start),
        "differing": regenerated(range(count)),
        "differing in reversed slots": regenerated([*reversed(range(count))]),
        "faults": [f"{type(fault).__name__}: {fault}" for fault in faults.values()],
    }


def in_another_process(path: Path | None, device: str, count: int) -> dict[str, str]:
    """Predict with the model at `path` in a new process, in every dtype. Return the sha256 of each prediction."""
    program = f"from {__name__} import print_digests; print_digests()"
    arguments = [str(path or "default"), device, str(count)]
    output = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, check=True
    ).stdout
    found: dict[str, str] = json.loads(output.splitlines()[-1])
    return found


def print_digests() -> None:
    """Print the result of `in_another_process` as JSON."""
    path, device, count = sys.argv[1:]
    transformers_logging.disable_progress_bar()
    set_threads(device)
    model_path = None if path == "default" else Path(path)
    print(
        json.dumps(
            {str(dtype): independence(load(model_path, dtype, device), int(count))["sha256"] for dtype in DTYPES}
        )
    )


def set_threads(device: str) -> None:
    """Use one thread on a CPU, as a worker does, because bits can depend on the number of threads."""
    if device == "cpu":
        torch.set_num_threads(1)

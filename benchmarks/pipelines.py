"""The cost of inverting in diffusers' own pipeline: its time over that of calling the network directly, A B A B.

`python -m benchmarks.pipelines`. Both invert and generate the same images of the shipped model, and must end with the
same integers. The network calls are counted at the network.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from benchmarks.record import parser, save
from benchmarks.samplers.cost import counted, there_and_back
from benchmarks.samplers.drawings import drawings
from edict import EDICT, BDIAScheduler, EDICTScheduler, OBELMScheduler, Pair
from edict.checkpoint import DEFAULT
from edict.samplers import sampling
from edict.schedulers import LatticeScheduler
from jobs.evaluation.record import table

SCHEDULERS: dict[str, type[LatticeScheduler]] = {
    "edict": EDICTScheduler,
    "bdia": BDIAScheduler,
    "obelm": OBELMScheduler,
}


def in_the_pipeline(pipe: StableDiffusionPipeline, start: Pair, captions: list[str], steps: int) -> Iterator[str]:
    """Invert and generate in the pipeline's own call. Yield the name of each direction when it has ended."""
    call = {"num_inference_steps": steps, "guidance_scale": start.guidance_scale, "output_type": "latent"}
    pipe(captions, latents=pipe.scheduler.invert(start), **call)
    noise = pipe.scheduler.pair
    yield "inversion"
    pipe(captions, latents=pipe.scheduler.generate(noise), **call)
    if pipe.scheduler.pair != start:
        raise RuntimeError("the round trip is not exact")
    yield "generation"


def main() -> None:
    arguments = parser(__doc__)
    arguments.set_defaults(batch=8)
    arguments.add_argument("--guidance", type=float, default=3.0)
    arguments.add_argument("--steps", type=int, default=20)
    arguments.add_argument("--rounds", type=int, default=7)
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    model = EDICT.from_pretrained()
    pipe = StableDiffusionPipeline.from_pretrained(str(DEFAULT), safety_checker=None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    model.set_progress_bar_config(disable=True)
    config = pipe.scheduler.config
    shown = [first for first, _ in drawings()[: given.batch]]
    captions = [picture.caption for picture in shown]
    clean = model.encode([picture.image for picture in shown])
    rows, results = [], []
    for name, kind in SCHEDULERS.items():
        pipe.scheduler = kind.from_config(config, bits=clean.bits)
        start = model.prepare(
            clean, sampling(steps=given.steps, strength=1.0, guidance_scale=given.guidance, name=name)
        )
        paths: dict[str, tuple[torch.nn.Module, Callable[[], Iterator[str]]]] = {
            "direct": (model.network, partial(there_and_back, model, start, captions)),
            "pipeline": (pipe.unet, partial(in_the_pipeline, pipe, start, captions, given.steps)),
        }
        seconds: dict[tuple[str, str], list[float]] = {}
        calls: dict[tuple[str, str], int] = {}
        for _ in range(given.rounds):
            for path, (network, walk) in paths.items():
                with counted(network) as counts:
                    began = time.perf_counter()
                    for direction in walk():
                        seconds.setdefault((direction, path), []).append(time.perf_counter() - began)
                        calls[direction, path] = counts["calls"]
                        counts.clear()
                        began = time.perf_counter()
        for direction in ("inversion", "generation"):
            direct, pipeline = (np.array(seconds[direction, path]) for path in paths)
            result = {
                "sampler": name,
                "direction": direction,
                "network_calls": {path: calls[direction, path] for path in paths},
                "direct_seconds": direct.tolist(),
                "pipeline_seconds": pipeline.tolist(),
                "pipeline_to_direct": float(np.median(pipeline / direct)),
            }
            results.append(result)
            per_image = (float(np.median(took)) / len(shown) for took in (direct, pipeline))
            rows.append(
                [
                    name,
                    direction,
                    *(calls[direction, path] for path in paths),
                    *(f"{took:.3f}" for took in per_image),
                    f"{result['pipeline_to_direct']:.3f}",
                ]
            )
    head = ("sampler", "direction", "direct calls", "pipeline calls", "direct s/image", "pipeline s/image", "ratio")
    print(table(head, rows))
    print(f"\nwritten to {save('pipelines', given, rows=results)}")


if __name__ == "__main__":
    main()

"""Cost of an inversion in diffusers' own pipeline: its time over that of calling the network directly, A B A B.

`python -m benchmarks.pipelines`. Both invert and generate the same images of the shipped model, and must end with the
same integers. The network calls are counted at the network.
"""

from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from statistics import median
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

from benchmarks.harness import alternate, program, ratios, run, save, show
from benchmarks.samplers.cost import DIRECTIONS, directions, round_trip
from benchmarks.samplers.drawings import drawings
from edict import EDICT, BDIAScheduler, EDICTScheduler, OBELMScheduler, Pair
from edict.checkpoint import DEFAULT
from edict.samplers import sampling
from edict.schedulers import LatticeScheduler

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


@program(batch=8, threads=torch.get_num_threads(), guidance=3.0, steps=20, rounds=7)
def pipelines(given: Namespace) -> None:
    model = EDICT.from_pretrained()
    pipe = StableDiffusionPipeline.from_pretrained(str(DEFAULT), safety_checker=None, requires_safety_checker=False)
    for each in (pipe, model):
        each.set_progress_bar_config(disable=True)
    config = pipe.scheduler.config
    shown = [first for first, _ in drawings()[: given.batch]]
    captions, clean = [image.caption for image in shown], model.encode([image.image for image in shown])
    starts = {}
    for name in SCHEDULERS:
        settings = sampling(steps=given.steps, strength=1.0, guidance_scale=given.guidance, name=name)
        starts[name] = model.prepare(clean, settings)

    def direct(name: str) -> dict[str, dict[str, float]]:
        return directions(round_trip(model, starts[name], captions), model.network)

    def pipeline(name: str) -> dict[str, dict[str, float]]:
        pipe.scheduler = SCHEDULERS[name].from_config(config, bits=clean.bits)
        return directions(in_the_pipeline(pipe, starts[name], captions, given.steps), pipe.unet)

    paths = {"direct": direct, "pipeline": pipeline}
    rows: list[dict[str, Any]] = []
    for name in SCHEDULERS:
        rounds = alternate(given.rounds, {path: partial(call, name) for path, call in paths.items()})
        for direction in DIRECTIONS:
            seconds = {path: [one[direction]["seconds"] for one in found] for path, found in rounds.items()}
            rows.append(
                {
                    "sampler": name,
                    "direction": direction,
                    "network_calls": {path: found[-1][direction]["calls"] for path, found in rounds.items()},
                    **{f"{path}_seconds": rounds_seconds for path, rounds_seconds in seconds.items()},
                    "pipeline_to_direct": median(ratios(seconds["pipeline"], seconds["direct"])),
                }
            )
    columns: dict[str, Any] = {"sampler": "sampler", "direction": "direction"}
    for path in paths:
        columns[f"{path}, calls"] = lambda row, path=path: row["network_calls"][path]
        columns[f"{path}, s per image"] = lambda row, path=path: f"{median(row[f'{path}_seconds']) / len(shown):.3f}"
    show(rows, columns | {"pipeline / direct": "pipeline_to_direct:.3f"})
    save("pipelines", given, rows=rows)


if __name__ == "__main__":
    run(__doc__, pipelines)

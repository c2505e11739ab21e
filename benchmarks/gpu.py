"""Speed and exactness on one GPU: the networks of `benchmarks.shapes` in EDICT's own calls and steps.

`python -m benchmarks.gpu`, ten minutes at most; `--device cpu --small` tries it anywhere. A row is one latent through
the network once; a guided picture takes two rows a call, and 50 steps of EDICT 100 calls. Seconds a picture are that
many times the measured call, for one direction, without text encoder and autoencoder. The file is written after each
part; what fails leaves its message there, and what there was no time for is skipped.
"""

import argparse
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import published
from benchmarks.record import save
from benchmarks.shapes import SHAPES, load
from benchmarks.variants import VARIANTS, answered, forward_as, tf32
from edict import EDICT, Pair
from edict.lattice import to_lattice
from edict.model import BITS
from edict.sampler import Extent
from edict.samplers import SAMPLERS, resolve
from jobs.evaluation.record import table
from pipeline.cost import clocked, fresh, peak, smallest, timed

CAPTION = "a red heart on a blue background"
STEPS, GUIDANCE = 50, 7.0
CALLS = 2 * STEPS  # EDICT calls the network twice per step
BATCHES = (1, 2, 4, 8, 16, 32, 64)
NETWORK = ("size", "bits", "step", "as published")  # parts that are no variant and no sampler
EXACT = [name for name, sampler in SAMPLERS.items() if sampler.exact]

Found = dict[str, Any]


class OutOfTime(BaseException):
    """The time was up within a part. No Exception: a compiler would take it for a failure of its own."""


def latents(model: EDICT, pictures: int, executed: int, sampler: str = "edict") -> Pair:
    """Random clean latents, one batch, at the end of the last `executed` steps."""
    config = model.network.config
    size = (pictures, config.in_channels, config.sample_size, config.sample_size)
    drawn = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(model.device)
    end = model.model.clean()
    x = to_lattice(drawn, end.scale(0), BITS)
    clean = Pair(x, x.clone(), end, 0, BITS, GUIDANCE, pictures, "edict", resolve("edict", 0, {}))
    return model.prepare(clean, steps=STEPS, strength=executed / STEPS, guidance_scale=GUIDANCE, sampler=sampler)


def guided(model: EDICT, pictures: int) -> Callable[[], torch.Tensor]:
    """A guided call of the network, as a half-step makes it."""
    start = latents(model, pictures, 1)
    x, _ = start.to_float()
    predict = model.predictor([CAPTION] * pictures, GUIDANCE)
    return lambda: predict(x, start.schedule.timesteps[0])


def machine(device: str) -> Found:
    """What it is measured on."""
    if device == "cpu":
        return {"name": "CPU"}
    properties = torch.cuda.get_device_properties(0)
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    said = subprocess.run(query, capture_output=True, text=True).stdout if shutil.which(query[0]) else ""
    return {
        "name": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
        "capability": [properties.major, properties.minor],
        "driver": said.split("\n")[0],
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def product_rates(device: str, side: int) -> Found:
    """TFLOP/s of the product of two random matrices, side x side, by dtype."""
    rates = Found()
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        for rounded in (False, True) if dtype == torch.float32 else (False,):
            with tf32() if rounded else nullcontext():
                seconds = timed(partial(torch.mm, a, b), a.device)
            rates["TF32" if rounded else named(dtype)] = 2 * side**3 / seconds / 1e12
    return rates


@torch.no_grad()
def size(model: EDICT, found: Found) -> Found:
    """Parameters; FLOPs of a row, of products and convolutions; the settings that EDICT made."""
    start = latents(model, 1, 1)
    conditions = model.model.condition([CAPTION])
    # attention as plain products: of its kernels the counter does not know all
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.model.predict(start.to_float()[0], start.schedule.timesteps[0], conditions)
    cudnn = torch.backends.cudnn
    return {
        "parameters": sum(weight.numel() for weight in model.network.parameters()),
        "flops_a_row": counter.get_total_flops(),
        "matmul_tf32": torch.backends.cuda.matmul.allow_tf32,
        "cudnn_tf32": cudnn.allow_tf32,
        "cudnn_deterministic": cudnn.deterministic,
        "cudnn_benchmark": cudnn.benchmark,
    }


@torch.inference_mode()
def sweep(model: EDICT, found: Found, batches: Sequence[int], rates: Found) -> list[Found]:
    """Guided calls by batch, up to the first that fails."""
    on_cuda = model.device.type == "cuda"
    rows: list[Found] = []
    for pictures in batches:
        fresh(model.device)
        try:
            seconds = timed(guided(model, pictures), model.device)
        except RuntimeError as error:  # as out of memory
            rows.append({"pictures": pictures, "failed": told(error)})
            break
        tflops = 2 * pictures * found["size"]["flops_a_row"] / seconds / 1e12
        row = {
            "pictures": pictures,
            "rows_a_second": 2 * pictures / seconds,
            "tflops": tflops,
            "of_product_rate": tflops / rates[named(model.network.dtype)],
            "seconds_a_picture": CALLS * seconds / pictures,
        }
        rows.append(row | ({"peak_gib": peak(model.device) / 2**30} if on_cuda else {}))
    return rows


def best(found: Found) -> int:
    """The batch that the rest is measured at."""
    rows = [row for row in found["sweep"] if "failed" not in row]
    return smallest({row["pictures"]: row["seconds_a_picture"] for row in rows})


@torch.inference_mode()
def bits(model: EDICT, found: Found) -> Found:
    """How many rows of a call have other bits when it is made again, or with other rows around them."""
    start = latents(model, 2 * best(found), 1)
    x, _ = start.to_float()
    conditions = model.model.condition([CAPTION] * len(x))
    even = torch.arange(0, len(x), 2, device=model.device)
    others = x.flip(0).index_copy(0, even, x[even])

    def predict(rows: torch.Tensor) -> torch.Tensor:
        of = {name: values[: len(rows)] for name, values in conditions.items()}
        return model.model.predict(rows, start.schedule.timesteps[0], of)

    def differing(one: torch.Tensor, other: torch.Tensor) -> int:
        return int((one != other).flatten(1).any(1).sum())

    whole = predict(x)
    return {
        "rows": len(x),
        "std": float(whole.std()),
        "again": differing(predict(x), whole),
        "in another place": differing(predict(x.flip(0)).flip(0), whole),
        "every other row, beside other rows": differing(predict(others)[even], whole[even]),
        "in two halves": differing(torch.cat([predict(half) for half in x.chunk(2)]), whole),
        "the first, alone": differing(predict(x[:1]), whole[:1]),
    }


@torch.inference_mode()
def step(model: EDICT, found: Found) -> Found:
    """A step of the inversion, and the same with the network's answer at hand: all of it that is not the network."""
    pair = latents(model, best(found), 2)
    predict = model.predictor([CAPTION] * len(pair), GUIDANCE)
    invert = partial(SAMPLERS["edict"].invert, pair.x, pair.y, pair.schedule, predict, bits=BITS, **pair.parameters)

    def seconds() -> float:
        whole = partial(invert, start=pair.position, stop=0, extent=Extent(pair.x))
        return timed(whole, model.device) / pair.position

    whole = seconds()
    with forward_as(model.network, answered):
        rest = seconds()
    return {
        "pictures": len(pair),
        "seconds": whole,
        "seconds_without_network": rest,
        "seconds_a_picture": STEPS * whole / len(pair),
    }


def round_trip(model: EDICT, found: Found, pictures: int, executed: int, sampler: str) -> Found:
    """Inverted and regenerated: integers that the inversion changed, and those that differ at the end."""
    start = latents(model, pictures, executed, sampler)
    noise, lost = model.move(start, [CAPTION] * pictures, 0)
    again, more = model.move(noise, [CAPTION] * pictures, start.position)
    return {
        "pictures": pictures,
        "executed": start.position,
        "integers": 2 * start.x.numel(),
        "changed": int((noise.x != start.x).sum() + (noise.y != start.y).sum()),
        "differing": int((again.x != start.x).sum() + (again.y != start.y).sum()),
        "faults": [told(fault) for fault in (lost | more).values()],
    }


@torch.inference_mode()
def speed(model: EDICT, found: Found) -> Found:
    """A guided call at the best batch, the first, which may compile, and the next; its bits; a round trip."""
    pictures = best(found)
    call = guided(model, pictures)
    return {
        "seconds_of_first_call": clocked(call, model.device),
        "seconds_a_picture": CALLS * timed(call, model.device) / pictures,
        "sha256": sha256(call().float().cpu().numpy().tobytes()).hexdigest(),
        **round_trip(model, found, pictures, 2, "edict"),
    }


def varied(model: EDICT, found: Found, names: Sequence[str]) -> Found:
    """`speed` of variants of the network, beside that of bfloat16 without any, which comes first."""
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(VARIANTS[name](model.network))
        measured = speed(model, found)
    plain = found.get("bfloat16", measured)
    return measured | {
        "times_as_fast": plain["seconds_a_picture"] / measured["seconds_a_picture"],
        "same_bits": plain["sha256"] == measured["sha256"],
    }


@torch.inference_mode()
def as_published(model: EDICT, found: Found) -> Found:
    """The authors' way: float64, one picture at a time, a call for each branch of guidance; `step` is ours."""
    pair = latents(model, 1, 1)
    x, _ = pair.to_float()
    text, empty = model.model.condition([CAPTION]), model.model.unconditional()

    def predict(given: torch.Tensor, timestep: float) -> torch.Tensor:
        without, with_text = (model.model.predict(given, timestep, of) for of in (empty, text))
        return without + GUIDANCE * (with_text - without)

    invert = partial(published.invert, x, x, pair.schedule, predict, float(pair.parameters["p"]))
    seconds = STEPS * timed(invert, model.device) / pair.position
    return {"seconds_a_picture": seconds, "times_as_slow": seconds / found["step"]["seconds_a_picture"]}


class Part(NamedTuple):
    """Something to measure of a shape in a dtype."""

    shape: str
    dtype: torch.dtype
    name: str
    measure: Callable[[EDICT, Found], Any]


def parts(rates: Found, on_cuda: bool, batches: Sequence[int]) -> Iterator[Part]:
    """What matters most first, what takes long last."""

    def variant(shape: str, dtype: torch.dtype, *names: str) -> Part:
        return Part(shape, dtype, ", ".join([named(dtype), *names]), partial(varied, names=names))

    def exact(shape: str, dtype: torch.dtype, samplers: Sequence[str]) -> Iterator[Part]:
        for sampler in samplers:
            measure = partial(round_trip, pictures=8, executed=4, sampler=sampler)
            yield Part(shape, dtype, f"{named(dtype)}, {sampler}", measure)

    half, full = torch.bfloat16, torch.float32
    for shape in SHAPES:
        yield Part(shape, half, "size", size)
        yield Part(shape, half, "sweep", partial(sweep, batches=batches, rates=rates))
        yield Part(shape, half, "bits", bits)
        yield Part(shape, half, "step", step)
        yield from exact(shape, half, EXACT)
        for names in ([], ["two calls"], ["channels_last"]):
            yield variant(shape, half, *names)
        if on_cuda:
            yield variant(shape, half, "CUDA graph")
            yield variant(shape, half, "channels_last", "CUDA graph")
    for shape in SHAPES:
        yield variant(shape, torch.float16)
        yield from exact(shape, torch.float16, EXACT)
    yield variant("sd15", full)
    yield variant("sd15", full, "TF32")
    yield from exact("sd15", full, EXACT)
    for shape in ("sd15", "sdxl"):  # the published steps are of noise, and not of a flow
        yield Part(shape, torch.float64, "as published", as_published)
    if on_cuda:
        for shape in ("sd15", "sd3", "sdxl"):
            yield variant(shape, half, "compile")
    for shape in ("sdxl", "sd3"):
        yield variant(shape, full)
        yield from exact(shape, full, ["edict"])
    if on_cuda:
        if find_spec("torchao"):
            yield variant("sd3", half, "int8", "compile")
        yield variant("sd15", half, "compile, max-autotune")


def attempt(part: Part, models: dict[Any, EDICT], found: Found, folder: Path, left: float, given: Any) -> Any:
    """What a part found, or why nothing. `models` has the one that was last in use."""
    if left <= 0:
        return {"skipped": "the time was up"}
    signal.setitimer(signal.ITIMER_REAL, left)
    try:
        if (key := (part.shape, part.dtype)) not in models:
            models.clear()
            fresh(torch.device(given.device))
            models[key] = load(
                part.shape, folder / part.shape, dtype=part.dtype, device=given.device, small=given.small
            )
        return part.measure(models[key], found)
    except (Exception, OutOfTime) as error:
        models.clear()  # it may not be what it was
        return {"failed": told(error)}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def stop(*_: object) -> None:
    raise OutOfTime("the time was up")


def named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def tables(shapes: Mapping[str, Found], rates: Found) -> Iterator[str]:
    """What was found, in Markdown: a table for each kind of part, with the columns that any of its rows has."""
    kinds = defaultdict[str, list[Found]](list, {"product": [rates]})
    for shape, results in shapes.items():
        for name, result in results.items():
            if isinstance(result, list):
                kinds[name] += [{"shape": shape, **row} for row in result]
            else:
                kind = name if name in NETWORK else "speed" if "sha256" in result else "round trips"
                kinds[kind].append({"shape": shape, "part": name, **result})
    for kind, rows in kinds.items():
        head = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "sha256"]
        yield kind + "\n\n" + table(head, [[cell(row.get(name, "")) for name in head] for row in rows])


def cell(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else value


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    arguments.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    arguments.add_argument("--small", action="store_true", help="narrow networks on 16x16 latents")
    arguments.add_argument("--minutes", type=float, default=9.5, help="after them nothing goes on")
    given = arguments.parse_args()
    began = time.monotonic()
    if given.device == "cuda" and not torch.cuda.is_available():
        arguments.error("torch sees no CUDA device; --device cpu --small does without")
    signal.signal(signal.SIGALRM, stop)
    on = machine(given.device)
    name = "-".join(["gpu", *re.findall("[a-z0-9]+", on["name"].lower()), *(["small"] if given.small else [])])
    rates = product_rates(given.device, 512 if given.small else 8192)
    found = {shape: Found() for shape in SHAPES}
    models: dict[Any, EDICT] = {}
    with tempfile.TemporaryDirectory() as folder:
        for part in parts(rates, given.device == "cuda", BATCHES[:3] if given.small else BATCHES):
            now = time.monotonic()
            left = 60 * given.minutes - (now - began)
            result = attempt(part, models, found[part.shape], Path(folder), left, given)
            found[part.shape][part.name] = result
            file = save(name, given, weights={"networks": "random"}, machine=on, product_tflops=rates, shapes=found)
            print(f"{time.monotonic() - now:6.1f} s  {part.shape}: {part.name}", flush=True)
    print("\n" + "\n\n".join(tables(found, rates)))
    print(f"\n{time.monotonic() - began:.0f} s; written to {file}")


if __name__ == "__main__":
    main()

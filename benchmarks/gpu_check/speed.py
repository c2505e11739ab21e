"""Speed of networks of the published sizes, in seconds per image, and its bounds.

A row is one latent in one network call; an image with classifier-free guidance takes two rows per call. Seconds
per image are of one direction, with one encoding or decoding; 50 steps of EDICT are 100 calls.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import published
from benchmarks.gpu_check.bits import GUIDANCE, STEPS, captions, independence, latents, round_trip
from benchmarks.gpu_check.shapes import SHAPES
from benchmarks.gpu_check.variants import VARIANTS, forward_as, repeating
from benchmarks.harness import dtype_name
from edict import EDICT
from edict.determinism import tf32
from edict.integration import Integration, solve
from edict.samplers import parameters
from pipeline.profiling import NEAR, memory_peak, reset_memory_peak, seconds_of, smallest_near_fastest, timed

CALLS = 2 * STEPS  # EDICT calls the network twice per step
BATCH = 16  # the default of workers.batch_size
BATCHES = (1, 2, 4, 8, 16, 32)

Found = dict[str, Any]


def product_rates(device: str, side: int) -> Found:
    """Return the TFLOP/s of the product of two random matrices, side x side, by dtype."""
    rates = Found()
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        for rounded in (False, True) if dtype == torch.float32 else (False,):
            with tf32(rounded):
                seconds = timed(partial(torch.mm, a, b), a.device)
            rates["TF32" if rounded else dtype_name(dtype)] = 2 * side**3 / seconds / 1e12
    return rates


def rows_per_image(model: EDICT) -> int:
    """Return the number of rows that an image takes per network call."""
    return 2 if model.backend.guidance == "cfg" else 1


def call_of(model: EDICT, count: int) -> Callable[[], torch.Tensor]:
    """Return a guided call of the network, as a half-step makes it."""
    start = latents(model, count, 1)
    x, _ = start.to_float()
    predict = model.direct.predictor(captions(count), GUIDANCE)
    return lambda: predict(x, start.schedule.timesteps[0])


def best(found: Found) -> int:
    """Return the batch size for the other parts: the smallest near the fastest, at most the default."""
    fits = {row["batch"]: row["network, seconds per image"] for row in found["batches"] if "failed" not in row}
    return min(BATCH, smallest_near_fastest(fits))


@dataclass(frozen=True)
class Speed:
    """The measurements of a model. `found` has the results of the parts that were measured before.

    `rates` is the result of `product_rates`. `sizes` are the batch sizes to try. `timed` returns the seconds of a call.
    """

    rates: Found
    sizes: Sequence[int]
    timed: Callable[[Callable[[], Any], torch.device], float]

    @torch.inference_mode()
    def size(self, model: EDICT, found: Found) -> Found:
        """Count parameters, and the FLOPs of products and convolutions, per row and per image or caption."""
        start = latents(model, 1, 1)
        predict = model.direct.predictor(captions(1), GUIDANCE)
        pixels = torch.zeros(1, 3, model.size, model.size, device=model.device)
        calls: dict[str, Callable[[], object]] = {
            "network, per row": lambda: predict(start.to_float()[0], start.schedule.timesteps[0]),
            "encode": lambda: model.backend.encode(pixels, None),
            "decode": lambda: model.backend.decode(start.to_float()[0].float()),
            "text": lambda: model.direct.condition(captions(1)),
        }
        tflop = Found()
        for name, call in calls.items():
            # Attention runs as plain products, because the counter does not know every fused kernel.
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                call()
            tflop[name] = counter.get_total_flops() / 1e12
        tflop["network, per row"] /= rows_per_image(model)
        networks = {name: part for name, part in vars(model.backend).items() if isinstance(part, nn.Module)}
        return {
            "parameters": {
                name: sum(weight.numel() for weight in part.parameters()) for name, part in networks.items()
            },
            "TFLOP": tflop,
            "rows per image": rows_per_image(model),
        }

    @torch.inference_mode()
    def batches(self, model: EDICT, found: Found) -> list[Found]:
        """Time guided calls by batch size, until one fails, such as for lack of memory, or two bring no gain."""
        rows: list[Found] = []
        for count in self.sizes:
            reset_memory_peak(model.device)
            try:
                seconds = self.timed(call_of(model, count), model.device)
            except RuntimeError as error:
                rows.append({"batch": count, "failed": message(error)})
                break
            tflops = count * rows_per_image(model) * found["size"]["TFLOP"]["network, per row"] / seconds
            row = {
                "batch": count,
                "seconds per call": seconds,
                "TFLOP/s": tflops,
                "of the matmul": tflops / self.rates[dtype_name(model.network.dtype)],
                "network, seconds per image": CALLS * seconds / count,
            }
            rows.append(row | {"peak GiB": memory_peak(model.device) / 2**30})
            taken = [row["network, seconds per image"] for row in rows]
            if len(taken) > 2 and taken[-3] <= NEAR * min(taken[-2:]):
                break
        return rows

    @torch.inference_mode()
    def other_parts(self, model: EDICT, found: Found) -> Found:
        """Time the autoencoder in all precisions and layouts, the text encoders, and a whole image."""
        count, vae = best(found), model.direct.vae
        pixels = torch.zeros(1, 3, model.size, model.size, device=model.device)
        z = latents(model, 1, 1).to_float()[0].float()

        def seconds(*names: str) -> Found:
            with ExitStack() as stack:
                for name in names:
                    stack.enter_context(VARIANTS[name](vae))
                encode, decode = lambda: vae.encode(pixels.to(vae.dtype)), lambda: vae.decode(z.to(vae.dtype))
                return {"encode": self.timed(encode, model.device), "decode": self.timed(decode, model.device)}

        autoencoder = {
            ", ".join(names): seconds(*(name for name in names if name != "float32"))
            for names in (
                ("float32",),
                ("TF32",),
                ("bfloat16",),
                ("float32", "channels_last"),
                ("bfloat16", "channels_last"),
            )
        }
        text = self.timed(lambda: model.direct.condition(captions(count)), model.device) / count
        network = next(row for row in found["batches"] if row["batch"] == count)["network, seconds per image"]
        strict = autoencoder["float32"]
        return {
            "autoencoder, seconds per image": autoencoder,
            "text, seconds per caption": text,
            "inversion, seconds per image": network + text + strict["encode"],
            "regeneration, seconds per image": network + text + strict["decode"],
        }

    @torch.inference_mode()
    def step(self, model: EDICT, found: Found) -> Found:
        """Time a step of the inversion, and the same step with a stored prediction: everything but the network."""
        pair = latents(model, best(found), 2)
        predict = model.direct.predictor(captions(len(pair)), GUIDANCE)

        def seconds() -> float:
            return self.timed(lambda: solve(Integration(pair, 0), predict), model.device) / pair.position

        whole = seconds()
        with forward_as(model.network, repeating):
            rest = seconds()
        return {
            "batch": len(pair),
            "seconds": whole,
            "seconds without the network": rest,
            "seconds per image": STEPS * whole / len(pair),
        }

    @torch.inference_mode()
    def varied(self, model: EDICT, found: Found, names: Sequence[str]) -> Found:
        """Time a guided call with variants of the network, and the first call, which may compile; check its bits."""
        count = best(found)
        with ExitStack() as stack:
            for name in names:
                stack.enter_context(VARIANTS[name](model.network))
            reset_memory_peak(model.device)
            call = call_of(model, count)
            first = seconds_of(call, model.device)
            measured = {
                "batch": count,
                "seconds of the first call": first,
                "network, seconds per image": CALLS * self.timed(call, model.device) / count,
                "peak GiB": memory_peak(model.device) / 2**30,
                **{name: value for name, value in independence(model, count).items() if name != "batch"},
                **round_trip(model, count, 2),
            }
        plain = found.get(f"{dtype_name(model.network.dtype)}, eager", measured)
        faster = plain["network, seconds per image"] / measured["network, seconds per image"]
        return measured | {"times as fast as eager": faster, "bits of eager": plain["sha256"] == measured["sha256"]}

    @torch.inference_mode()
    def as_published(self, model: EDICT, found: Found) -> Found:
        """Time and check the authors' method: float states, one image, one call per branch of guidance."""
        pair = latents(model, 1, 2)
        x = pair.to_float()[0].to(model.network.dtype)
        text, empty = model.direct.condition(captions(1)), model.direct.unconditional()

        def predict(latents: torch.Tensor, timestep: float) -> torch.Tensor:
            without, with_text = (model.direct.predict(latents, timestep, conditions) for conditions in (empty, text))
            return without + GUIDANCE * (with_text - without)

        p = float(parameters(pair.sampling)["p"])
        invert = partial(published.invert, x, x, pair.schedule, predict, p)
        seconds = STEPS * self.timed(invert, model.device) / pair.position
        again = published.generate(*invert(), pair.schedule, predict, p)
        return {
            "network, seconds per image": seconds,
            "largest error after two steps": float(max((state - x).abs().max() for state in again)),
            "times as slow as ours": seconds / found["step"]["seconds per image"],
        }


class Part(NamedTuple):
    """One thing to measure of a shape in a dtype."""

    shape: str
    dtype: torch.dtype
    name: str
    measure: Callable[[EDICT, Found], Any]


def parts(speed: Speed, on_cuda: bool) -> Iterator[Part]:
    """Yield the parts by importance, with compilation last, because it takes minutes."""

    def variant(shape: str, dtype: torch.dtype, *names: str) -> Part:
        name = ", ".join([dtype_name(dtype), *(names or ["eager"])])
        return Part(shape, dtype, name, partial(speed.varied, names=names))

    half, full = torch.bfloat16, torch.float32
    convolutional = [shape for shape in SHAPES if shape != "flux"]
    for shape in SHAPES:
        yield Part(shape, half, "size", speed.size)
        yield Part(shape, half, "batches", speed.batches)
        yield Part(shape, half, "other parts", speed.other_parts)
        yield Part(shape, half, "step", speed.step)
        yield variant(shape, half)
        if shape in convolutional:
            yield variant(shape, half, "channels_last")
        if on_cuda:
            yield variant(shape, half, "cuDNN attention")
    for dtype in (torch.float64, full):
        yield Part("sd15", dtype, f"as published, {dtype_name(dtype)}", speed.as_published)
    yield variant("sd15", torch.float16)
    yield variant("sd15", full)
    if on_cuda:
        yield variant("sd15", full, "TF32")
        for shape in SHAPES:
            yield variant(shape, half, "compile")
            if shape in convolutional:
                yield variant(shape, half, "channels_last", "compile")


def message(error: BaseException) -> str:
    """Return an error as one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0]

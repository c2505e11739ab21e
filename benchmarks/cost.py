"""Cost of an image by count: floating-point operations of its network calls, parameters and bytes.

`python -m benchmarks.cost`. torch.utils.flop_counter counts a multiplication and an addition as two operations. The
networks have shapes and no numbers (the meta device): those of the shipped model, and those of Stable Diffusion 1.5's
configuration at 512x512 pixels. Matrix products and convolutions are counted, and elementwise operations are not.
"""

from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.harness import program, run, save, show
from edict.checkpoint import locate
from edict.model_files import read_config
from edict.models import describe
from edict.samplers import SAMPLERS, sampling

STABLE_DIFFUSION_1_5: dict[str, dict[str, Any]] = {  # where it differs from the defaults of the classes
    "unet": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "vae": {
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
        "sample_size": 512,
    },
    "text_encoder": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 77,
    },
}
SETTINGS = (("edict", 3.0), ("edict", 1.0), ("bdia", 3.0), ("bdia", 1.0))  # sampler, guidance scale


def operations(call: Callable[[], object], modules: tuple[str, ...] = ("Global",)) -> int:
    """Count the operations of a call, or of its modules whose names end with one of `modules`."""
    # The counter does not know every fused attention kernel on a CPU.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        call()
    return sum(sum(counts.values()) for name, counts in counter.get_flop_counts().items() if name.endswith(modules))


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@torch.inference_mode()
def measure(configs: Mapping[str, Mapping[str, Any]], steps: int) -> dict[str, Any]:
    """Count the parameters and operations of a checkpoint's networks, and the operations of an inversion."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(configs["unet"]).eval()
        vae = AutoencoderKL.from_config(configs["vae"]).eval()
        text = CLIPTextModel(CLIPTextConfig(**configs["text_encoder"])).eval()
        side, tokens = unet.config.sample_size, text.config.max_position_embeddings
        latents = torch.empty(1, unet.config.in_channels, side, side)
        states = torch.empty(1, tokens, unet.config.cross_attention_dim)
        pixels = torch.empty(1, 3, *[side * 2 ** (len(vae.config.block_out_channels) - 1)] * 2)
        ids = torch.zeros(1, tokens, dtype=torch.int64)

        def predict() -> object:
            return unet(latents, torch.zeros(1), states)

        once = {
            "unet": operations(predict),
            "unet, keys and values of the text": operations(predict, ("attn2.to_k", "attn2.to_v")),
            "vae, encode": operations(lambda: vae.encode(pixels)),
            "vae, decode": operations(lambda: vae.decode(latents)),
            "text_encoder": operations(lambda: text(ids)),
        }
    schedule = describe(locate()).schedule(sampling(steps=steps))
    evaluations = {
        f"{sampler}, guidance {guidance:g}": len(SAMPLERS[sampler].evaluated_steps(schedule, steps, 0))
        * (1 if guidance == 1 else 2)
        for sampler, guidance in SETTINGS
    }
    return {
        "parameters": {"unet": parameters(unet), "vae": parameters(vae), "text_encoder": parameters(text)},
        "operations": once,
        "evaluations": evaluations,
        "operations_of_an_inversion": {name: count * once["unet"] for name, count in evaluations.items()},
        "bytes_of_a_pair": 2 * 4 * latents.numel(),
        "bytes_of_an_unet": {"float32": 4 * parameters(unet), "bfloat16": 2 * parameters(unet)},
    }


@program(steps=50)
def cost(given: Namespace) -> None:
    shipped = {part: dict(read_config(locate(), part)) for part in STABLE_DIFFUSION_1_5}
    configs = {"shipped": shipped, "SD 1.5": STABLE_DIFFUSION_1_5}
    models = {name: measure(config, given.steps) for name, config in configs.items()}
    for title, key, unit in (("GFLOP per call", "operations", 1e9), ("million parameters", "parameters", 1e6)):
        rows = [
            {"": name, **{part: f"{n / unit:,.3f}" for part, n in counts[key].items()}}
            for name, counts in models.items()
        ]
        show(rows, {name: name for name in rows[0]}, title)
    rows = [
        {"": name, "evaluations": str(count)}
        | {model: f"{counts['operations_of_an_inversion'][name] / 1e12:,.3f}" for model, counts in models.items()}
        for name, count in models["shipped"]["evaluations"].items()
    ]
    show(rows, {name: name for name in rows[0]}, f"TFLOP per inversion of {given.steps} steps")
    save("cost", given, models=models)


if __name__ == "__main__":
    run(__doc__, cost)

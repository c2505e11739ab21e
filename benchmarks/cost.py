"""What a picture costs by count: floating-point operations of its network calls, and bytes.

`python -m benchmarks.cost`. Counted by torch.utils.flop_counter, a multiplication and an addition as two, on networks
that have shapes and no numbers (the meta device): the shipped model's, and those of Stable Diffusion 1.5's
configuration at 512x512 pixels. Attention's products are counted; what is done element by element is not.
"""

import argparse
from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.record import save
from edict.checkpoint import locate, read_config
from edict.models import describe
from edict.samplers import SAMPLERS, sampling
from jobs.evaluation.record import table

STABLE_DIFFUSION_1_5: dict[str, dict[str, Any]] = {  # what its configuration says other than the classes' defaults
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
WAYS = (("edict", 3.0), ("edict", 1.0), ("bdia", 3.0), ("bdia", 1.0))  # sampler, guidance


def shipped() -> dict[str, dict[str, Any]]:
    return {part: dict(read_config(locate(), part)) for part in STABLE_DIFFUSION_1_5}


def operations(call: Callable[[], object], of: tuple[str, ...] = ("Global",)) -> int:
    """Of a call, or of those of its modules whose names end in one of `of`."""
    # the other kernels of attention are not in torch's list for a CPU
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        call()
    return sum(sum(counts.values()) for name, counts in counter.get_flop_counts().items() if name.endswith(of))


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@torch.inference_mode()
def cost(configs: Mapping[str, Mapping[str, Any]], steps: int) -> dict[str, Any]:
    """Parameters and operations of a checkpoint's parts, each once for a picture, and what an inversion of it takes."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(configs["unet"]).eval()
        vae = AutoencoderKL.from_config(configs["vae"]).eval()
        text = CLIPTextModel(CLIPTextConfig(**configs["text_encoder"])).eval()
        side, tokens = unet.config.sample_size, text.config.max_position_embeddings
        latents = torch.empty(1, unet.config.in_channels, side, side)
        states = torch.empty(1, tokens, unet.config.cross_attention_dim)
        pixels = torch.empty(1, 3, *[side * 2 ** (len(vae.config.block_out_channels) - 1)] * 2)
        ids = torch.zeros(1, tokens, dtype=torch.int64)
        once = {
            "unet": operations(lambda: unet(latents, torch.zeros(1), states)),
            "unet, keys and values of the text": operations(
                lambda: unet(latents, torch.zeros(1), states), ("attn2.to_k", "attn2.to_v")
            ),
            "vae, encode": operations(lambda: vae.encode(pixels)),
            "vae, decode": operations(lambda: vae.decode(latents)),
            "text_encoder": operations(lambda: text(ids)),
        }
    schedule = describe(locate()).schedule(sampling(steps=steps))
    calls = {
        f"{sampler}, guidance {guidance:g}": len(SAMPLERS[sampler].evaluated_steps(schedule, steps, 0))
        * (1 if guidance == 1 else 2)
        for sampler, guidance in WAYS
    }
    return {
        "parameters": {"unet": parameters(unet), "vae": parameters(vae), "text_encoder": parameters(text)},
        "operations": once,
        "evaluations": calls,
        "operations_of_an_inversion": {way: count * once["unet"] for way, count in calls.items()},
        "bytes_of_a_pair": 2 * 4 * latents.numel(),
        "bytes_of_an_unet": {"float32": 4 * parameters(unet), "bfloat16": 2 * parameters(unet)},
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    arguments.add_argument("--steps", type=int, default=50)
    given = arguments.parse_args()
    models = {name: cost(of, given.steps) for name, of in (("shipped", shipped()), ("SD 1.5", STABLE_DIFFUSION_1_5))}
    parts = tuple(models["shipped"]["operations"])
    lines = [[name, *(f"{of['operations'][part] / 1e9:,.3f}" for part in parts)] for name, of in models.items()]
    print(table(("GFLOP, once for a picture", *parts), lines))
    lines = [[name, *(f"{count / 1e6:,.1f}" for count in of["parameters"].values())] for name, of in models.items()]
    print(table(("million parameters", "unet", "vae", "text_encoder"), lines))
    lines = [
        [way, models["shipped"]["evaluations"][way]]
        + [f"{of['operations_of_an_inversion'][way] / 1e12:,.3f}" for of in models.values()]
        for way in models["shipped"]["evaluations"]
    ]
    print(table((f"inversion, {given.steps} steps", "evaluations", *(f"{name}, TFLOP" for name in models)), lines))
    print(f"\nwritten to {save('cost', given, models=models)}")


if __name__ == "__main__":
    main()

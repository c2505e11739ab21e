"""Invert latents and generate them again, in a pipeline's own call, and count the integers that differ.

    python examples/round_trip.py stable-diffusion-v1-5/stable-diffusion-v1-5

Without a model, the small one of this package is used. Exit status: 0 if no integer differs, else 1.
"""

import argparse
import sys

import torch
from diffusers import DiffusionPipeline

from edict import EDICTScheduler
from edict.checkpoint import DEFAULT

parser = argparse.ArgumentParser()
parser.add_argument("model", nargs="?", default=DEFAULT, help="a folder or a hub id")
parser.add_argument("--prompt", default="a red heart")
parser.add_argument("--steps", type=int, default=20)
args = parser.parse_args()

torch.use_deterministic_algorithms(True)  # On a GPU, set the environment variable CUBLAS_WORKSPACE_CONFIG=:4096:8, too.
pipe = DiffusionPipeline.from_pretrained(args.model, torch_dtype=torch.bfloat16)
pipe.to("cuda" if torch.cuda.is_available() else "cpu")
call = {"prompt": args.prompt, "num_inference_steps": args.steps, "output_type": "latent"}
latents = pipe(**call)[0]  # Generated, so that they have the layout of any pipeline.

pipe.scheduler = EDICTScheduler.from_config(pipe.scheduler.config)
start = pipe.scheduler.encode(latents)
pipe(**call, latents=pipe.scheduler.invert(start).to(latents.dtype))
noise = pipe.scheduler.pair
pipe(**call, latents=pipe.scheduler.generate(noise).to(latents.dtype))
end = pipe.scheduler.pair

differing = int((end.x != start.x).sum() + (end.y != start.y).sum())
print(f"{differing} of {2 * start.x.numel()} integers differ")
sys.exit(differing > 0)

"""Invert latents and regenerate them in a pipeline's own call, and count the integers that differ.

    python examples/round_trip.py stable-diffusion-v1-5/stable-diffusion-v1-5

Works with any text-to-image or text-to-video pipeline of diffusers that docs/pipelines.md lists as exact. Exit status:
0 if no integer differs, otherwise 1.
"""

import argparse
import sys

import torch
from diffusers import DiffusionPipeline

from edict import EDICTScheduler
from edict.checkpoint import DEFAULT

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", nargs="?", default=DEFAULT, help="a folder or a hub id (default: the shipped model)")
parser.add_argument("--prompt", default="a red heart", help="the prompt of both directions (default: %(default)s)")
parser.add_argument("--steps", type=int, default=20, help="the number of steps (default: %(default)s)")
args = parser.parse_args()

# The network has to return the same bits for the same input.
# On a GPU, also set the environment variable CUBLAS_WORKSPACE_CONFIG=:4096:8.
torch.use_deterministic_algorithms(True)
pipe = DiffusionPipeline.from_pretrained(args.model, torch_dtype=torch.bfloat16)
pipe.to("cuda" if torch.cuda.is_available() else "cpu")
call = {"prompt": args.prompt, "num_inference_steps": args.steps, "output_type": "latent"}

# The pipeline's own scheduler generates the latents, so that they have the right layout.
latents = pipe(**call)[0]

pipe.scheduler = EDICTScheduler.from_config(pipe.scheduler.config)
start = pipe.scheduler.encode(latents)
pipe(**call, latents=pipe.scheduler.invert(start).to(latents.dtype))
noise = pipe.scheduler.pair
pipe(**call, latents=pipe.scheduler.generate(noise).to(latents.dtype))
end = pipe.scheduler.pair

differing = int((end.x != start.x).sum() + (end.y != start.y).sum())
print(f"{differing} of {2 * start.x.numel()} integers differ")
sys.exit(differing > 0)

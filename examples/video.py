"""Edit a video: invert it with its caption, and generate with another prompt.

    python examples/video.py cat.gif "a cat runs" "a dog runs"

Works with Wan 2.1. The video is a GIF, or another file if the package imageio is installed. Writes regenerated.gif and
edited.gif.
"""

import argparse

import torch
from diffusers import AutoencoderKLWan, WanPipeline
from diffusers.utils import export_to_gif, load_video

from edict import EDICTScheduler

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("video", help="the video to edit, a file or a URL")
parser.add_argument("caption", help="the caption of the video")
parser.add_argument("prompt", help="the caption of the video that you want")
parser.add_argument(
    "--model", default="Wan-AI/Wan2.1-T2V-1.3B-Diffusers", help="a folder or a hub id (default: %(default)s)"
)
parser.add_argument("--frames", type=int, default=81, help="a multiple of 4, plus 1 (default: %(default)s)")
parser.add_argument("--height", type=int, default=480, help="in pixels (default: %(default)s)")
parser.add_argument("--width", type=int, default=832, help="in pixels (default: %(default)s)")
parser.add_argument("--steps", type=int, default=50, help="the number of steps (default: %(default)s)")
args = parser.parse_args()

# The network has to return the same bits for the same input.
# On a GPU, also set the environment variable CUBLAS_WORKSPACE_CONFIG=:4096:8.
torch.use_deterministic_algorithms(True)
vae = AutoencoderKLWan.from_pretrained(args.model, subfolder="vae", torch_dtype=torch.float32)
pipe = WanPipeline.from_pretrained(args.model, vae=vae, torch_dtype=torch.bfloat16)
pipe.to("cuda" if torch.cuda.is_available() else "cpu")
pipe.scheduler = EDICTScheduler.from_config(pipe.scheduler.config)
shape = {"num_frames": args.frames, "height": args.height, "width": args.width}
call = {**shape, "num_inference_steps": args.steps, "guidance_scale": 3.0}

frames = [frame.convert("RGB") for frame in load_video(args.video)[: args.frames]]
# Wan's latents are normalized per channel.
pixels = pipe.video_processor.preprocess_video(frames, args.height, args.width).to(pipe.device)
mean, std = (
    torch.tensor(values, device=pipe.device).view(1, -1, 1, 1, 1)
    for values in (vae.config.latents_mean, vae.config.latents_std)
)
with torch.no_grad():
    latents = (vae.encode(pixels).latent_dist.mode() - mean) / std

start = pipe.scheduler.encode(latents)
pipe(args.caption, latents=pipe.scheduler.invert(start), output_type="latent", **call)
noise = pipe.scheduler.pair

regenerated = pipe(args.caption, latents=pipe.scheduler.generate(noise), output_type="pil", **call).frames[0]
assert pipe.scheduler.pair == start  # every integer
edited = pipe(args.prompt, latents=pipe.scheduler.generate(noise), output_type="pil", **call).frames[0]
export_to_gif(regenerated, "regenerated.gif")
export_to_gif(edited, "edited.gif")

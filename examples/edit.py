"""Edit an image: invert it with its caption, and generate with another prompt.

    python examples/edit.py cat.jpg "a photo of a cat" "a photo of a dog"

Works with every model that `EDICT` loads: Stable Diffusion, SDXL, FLUX, Qwen-Image and others (docs/pipelines.md). The
image is cropped to a square. Writes regenerated.png and edited.png.
"""

import argparse

import torch

from edict import EDICT

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("image", help="the image to edit, a file")
parser.add_argument("caption", help="the caption of the image")
parser.add_argument("prompt", help="the caption of the image that you want")
parser.add_argument("--model", help="a folder, a hub id or a .safetensors file (default: the shipped model, for emoji)")
parser.add_argument("--steps", type=int, default=50, help="the number of steps (default: %(default)s)")
parser.add_argument(
    "--strength",
    type=float,
    default=0.8,
    help="the share of the steps that are inverted; lower keeps more of the image (default: %(default)s)",
)
parser.add_argument("--guidance-scale", type=float, default=3.0, help="of both directions (default: %(default)s)")
args = parser.parse_args()

device = "cuda" if torch.cuda.is_available() else "cpu"
model = EDICT.from_pretrained(args.model, dtype=torch.bfloat16, device=device)
settings = {"steps": args.steps, "strength": args.strength, "guidance_scale": args.guidance_scale}
start = model.encode(args.image)
noise = model.invert(start, args.caption, **settings)

# The caption of the inversion regenerates the image. Every integer is equal.
end = model.generate(noise, args.caption, output_type="latent")
assert end == start
model.decode(end.to_float()[0])[0].save("regenerated.png")

# Another prompt edits it.
model.generate(noise, args.prompt)[0].save("edited.png")

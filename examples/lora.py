"""Edit an image with a LoRA, loaded by diffusers. It needs the package peft: pip install "edict-pipeline[lora]".

    python examples/lora.py cat.jpg "a cat" "a dog, pixel art"

`EDICT(pipe)` takes a pipeline with everything that is loaded into it. The LoRA has the same scale in the inversion and
in the generation. Writes regenerated.png and edited.png.
"""

import argparse

import torch
from diffusers import DiffusionPipeline

from edict import EDICT

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("image", help="the image to edit, a file")
parser.add_argument("caption", help="the caption of the image")
parser.add_argument("prompt", help="the caption of the image that you want")
parser.add_argument(
    "--model", default="stabilityai/stable-diffusion-xl-base-1.0", help="a folder or a hub id (default: %(default)s)"
)
parser.add_argument("--lora", default="nerijs/pixel-art-xl", help="a file, a folder or a hub id (default: %(default)s)")
parser.add_argument("--scale", type=float, default=0.7, help="the scale of the LoRA (default: %(default)s)")
parser.add_argument("--steps", type=int, default=50, help="the number of steps (default: %(default)s)")
args = parser.parse_args()

pipe = DiffusionPipeline.from_pretrained(args.model, torch_dtype=torch.bfloat16)
pipe.load_lora_weights(args.lora, adapter_name="lora")
pipe.set_adapters("lora", args.scale)
pipe.to("cuda" if torch.cuda.is_available() else "cpu")

model = EDICT(pipe)
start = model.encode(args.image)
noise = model.invert(start, args.caption, steps=args.steps, guidance_scale=3.0)

end = model.generate(noise, args.caption, output_type="latent")
assert end == start  # every integer
model.decode(end.to_float()[0])[0].save("regenerated.png")
model.generate(noise, args.prompt)[0].save("edited.png")

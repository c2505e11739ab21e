"""The training of the default model, from the downloaded drawings to the shipped folder.

`python -m training WORK --output FOLDER` runs all stages: `emoji` downloads the drawings, `autoencoder`, `tokenizer`
and `diffusion` train the components, and `export` writes a folder in the layout of diffusers. It needs the extra
`train` and npm. With the default training times it takes about 105 minutes.

`python -m training.demo --emoji WORK/emoji` writes the demo shards, with the drawings that are held out of training.
"""

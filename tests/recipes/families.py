"""Pipelines with a recipe that cannot invert and generate images by `EDICT(pipe)`, each with the reason."""

NO_IMAGES: dict[str, str] = {
    "AllegroPipeline": "its autoencoder takes no single frame",
    "AudioLDM2Pipeline": "generates sound",
    "KandinskyV22Pipeline": "takes embeddings of images, and no text",
    "StableAudio3Pipeline": "generates sound",
}

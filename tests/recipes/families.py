"""Pipelines with a recipe that `EDICT(pipe)` does not run with images in and out, and why."""

NO_IMAGES: dict[str, str] = {
    "AllegroPipeline": "its autoencoder takes no single frame",
    "AudioLDM2Pipeline": "makes sound",
    "KandinskyV22Pipeline": "takes embeddings of images, and no text",
    "StableAudio3Pipeline": "makes sound",
}

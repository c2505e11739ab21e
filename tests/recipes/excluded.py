"""Pipelines of diffusers that the schedulers of `edict` do not serve, and why."""

EXCLUDED: dict[str, str] = {
    "Cosmos2TextToImagePipeline": "It multiplies the latents that it is given by 80, the noise level of generation.",
    "Ideogram4Pipeline": "It has one guidance scale per step, by the loop's index, and EDICT has two calls per step.",
    "OmniGenPipeline": "Not tested: it needs torchvision. Its sigmas rise, as Mochi's do.",
    "SanaSprintPipeline": "Its scheduler (SCMScheduler) draws noise, and its loop wants a second result of each step.",
}

"""Pipelines of diffusers that the schedulers of `edict` do not serve, and why."""

EXCLUDED: dict[str, str] = {
    "AceStepPipeline": "Its guidance keeps a momentum from step to step, so a prediction depends on the steps before.",
    "AudioLDMPipeline": "Not tested. AudioLDM2Pipeline is.",
    "KandinskyCombinedPipeline": "It calls two pipelines, each with a scheduler of its own.",
    "KandinskyPipeline": "It has no output_type='latent'.",
    "KandinskyPriorPipeline": "Its scheduler (UnCLIPScheduler) has noise levels of a kind of its own.",
    "KandinskyV22CombinedPipeline": "It calls two pipelines, each with a scheduler: use KandinskyV22Pipeline.",
    "KandinskyV22PriorPipeline": "Its scheduler (UnCLIPScheduler) has noise levels of a kind of its own.",
    "LDMTextToImagePipeline": "It has no output_type='latent'.",
    "LatentConsistencyModelPipeline": "Its steps draw noise, and its loop wants a second result of each step.",
    "LongCatAudioDiTPipeline": "Not tested: its sigmas rise, as Mochi's do, and it takes no embeddings of prompts.",
    "MusicLDMPipeline": "Not tested. AudioLDM2Pipeline is.",
    "ShapEPipeline": "Its latents are the weights of a 3D scene, in another shape in the loop than in the argument.",
    "StableAudioPipeline": "Its scheduler (CosineDPMSolverMultistepScheduler) has noise levels of a kind of its own.",
    "StableCascadeCombinedPipeline": "It calls two pipelines, each with a scheduler of a kind of its own.",
    "StableCascadeDecoderPipeline": "Its scheduler (DDPMWuerstchenScheduler) has noise levels of a kind of its own.",
    "StableCascadePriorPipeline": "Its scheduler (DDPMWuerstchenScheduler) has noise levels of a kind of its own.",
}

"""Pipelines of diffusers that the schedulers of `edict` do not serve, and why."""

EXCLUDED: dict[str, str] = {
    "AnyFlowFARPipeline": "It denoises a video chunk by chunk, and its network takes the next noise level.",
    "AnyFlowPipeline": "Its network takes the next noise level, which is another one in an inversion.",
    "Cosmos2_5_PredictBasePipeline": "Not tested: its safety checker needs models of the package cosmos_guardrail.",
    "Cosmos2_5_TransferPipeline": "It denoises a video chunk by chunk, each after the last one.",
    "CosmosTextToWorldPipeline": "Its scheduler is EDM's, and is called twice per step.",
    "HeliosPipeline": "It draws the noise of each chunk itself and ignores `latents`.",
    "HeliosPyramidPipeline": "It draws the noise of each chunk itself, and adds noise between resolutions.",
    "LTX2ConditionPipeline": "It denoises video and audio together, by two copies of one scheduler.",
    "LTX2DFRPipeline": "It denoises video and audio together, by two copies of one scheduler.",
    "LTX2DFRTemporalRefinePipeline": "It denoises video and audio together, by two copies of one scheduler.",
    "LTX2HDRPipeline": "It denoises video and audio together, by two copies of one scheduler.",
    "LTX2ImageToVideoPipeline": "It denoises video and audio together, by two copies of one scheduler.",
    "LTX2InContextPipeline": "It denoises video and audio together, by two copies of one scheduler.",
    "LTX2Pipeline": "It denoises video and audio together, by two copies of one scheduler.",
    "LTXConditionPipeline": "It mixes the latents that it is given with random noise.",
    "SkyReelsV2DiffusionForcingImageToVideoPipeline": "Each frame has a copy of the scheduler, and a time of its own.",
    "SkyReelsV2DiffusionForcingPipeline": "Each frame has a copy of the scheduler, and a time of its own.",
    "SkyReelsV2DiffusionForcingVideoToVideoPipeline": "Each frame has a copy of the scheduler, and a time of its own.",
    "TextToVideoZeroPipeline": "It denoises in three parts, and warps the latents and adds noise between them.",
    "TextToVideoZeroSDXLPipeline": "It denoises in three parts, and warps the latents and adds noise between them.",
}

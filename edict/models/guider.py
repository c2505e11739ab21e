"""Pipelines with guidance by a component, `guider`, instead of an argument of the call."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from edict.errors import ModelError
from edict.models.pipeline import PipelineModel

SUPPORTED_GUIDERS = ("ClassifierFreeGuidance", "AdaptiveProjectedGuidance")


class GuiderPipeline(PipelineModel):
    """HunyuanVideo 1.5 and Motif-Video: the guidance scale is set in the guider during the call."""

    pipelines: ClassVar[tuple[str, ...]] = ("HunyuanVideo15Pipeline", "MotifVideoPipeline")
    guiders: ClassVar[tuple[str, ...]] = ("guider",)
    """The names of the components that guide."""

    @contextmanager
    def using_guidance(self, guidance_scale: float) -> Iterator[None]:
        found = [guider for name in self.guiders if (guider := getattr(self.pipe, name)) is not None]
        own = [guider.guidance_scale for guider in found]
        for guider in found:
            config = guider.config
            momentum = config.get("adaptive_projected_guidance_momentum")
            if (
                type(guider).__name__ not in SUPPORTED_GUIDERS
                or momentum is not None
                or (config.start, config.stop) != (0, 1)
            ):
                raise ModelError(
                    f"model {self.folder}: its {type(guider).__name__} depends on the index of the step, so no run is "
                    "exact. Set pipe.guider = diffusers.ClassifierFreeGuidance()"
                )
            guider.guidance_scale = guidance_scale - bool(config.use_original_formulation)
        try:
            yield
        finally:
            for guider, scale in zip(found, own, strict=True):
                guider.guidance_scale = scale


class HunyuanImage(GuiderPipeline):
    """HunyuanImage 2.1. The network of a distilled checkpoint takes the guidance scale, and there is no guider."""

    pipelines: ClassVar[tuple[str, ...]] = ("HunyuanImagePipeline",)
    guiders: ClassVar[tuple[str, ...]] = ("guider", "ocr_guider")

    def arguments(
        self, captions: Sequence[str], guidance_scale: float, negative_captions: Sequence[str | None] | None
    ) -> dict[str, Any]:
        arguments = super().arguments(captions, guidance_scale, negative_captions)
        return arguments | {"distilled_guidance_scale": guidance_scale}

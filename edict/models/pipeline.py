"""A pipeline of diffusers as a model: its own call predicts and guides, and an `EDICTScheduler` makes the steps.

A subclass has the layout and scale of the latents of a family, and the special arguments of its call. Without a
subclass, the latents have the layout of the pipeline's autoencoder, and the scale of the autoencoder's configuration.
"""

import inspect
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import Any, ClassVar, Self

import torch
from torch import nn

from edict.checkpoint import Checkpoint
from edict.errors import ModelError
from edict.integration import Integration
from edict.lattice import LatticeOverflow, NonFinite
from edict.model_files import read_config
from edict.models.base import Guidance, LoadOptions, Model, decoded, encoded
from edict.models.loading import check_components, denoiser_of, load_pipeline, pipeline_class
from edict.schedule import Schedule
from edict.schedulers import EDICTScheduler, ScheduleFound, ScheduleProbe
from schemas.sampling import Sampling

NEEDED = ("prompt", "latents", "num_inference_steps", "output_type")
"""The arguments that the call of a pipeline must accept."""
RESERVED = (
    "latents",
    "num_inference_steps",
    "num_images_per_prompt",
    "num_videos_per_prompt",
    "output_type",
    "timesteps",
    "sigmas",
    "return_dict",
    "self",
)
"""The arguments of the call that only `EDICT` sets."""
LAYOUT_ERRORS = (RuntimeError, ValueError, IndexError)
"""The errors that networks, pipelines and schedulers raise for latents in a wrong layout."""
CALL_LOCK = RLock()
"""Held during a call, because a call replaces the scheduler of a pipeline that several models can share."""
ONE_FRAME = ("num_frames", "video_length", "frames")
"""The names that calls have for the number of frames of a video."""
FIXED_LENGTH = frozenset(
    {
        "ChromaPipeline",
        "Flux2KleinPipeline",
        "Flux2Pipeline",
        "PixArtAlphaPipeline",
        "PixArtSigmaPipeline",
        "SanaPipeline",
        "StableDiffusion3Pipeline",
        "StableDiffusionPipeline",
        "WanPipeline",
    }
)
"""Pipelines that pad every caption to one length, so that a sample's bits do not depend on its batch's captions."""
FLOAT32_LATENTS = frozenset(
    {
        "BriaFibo2Pipeline",
        "CogView4ControlPipeline",
        "CogView4Pipeline",
        "Cosmos3OmniPipeline",
        "HunyuanVideoPipeline",
        "LTXPipeline",
        "SanaControlNetPipeline",
        "SanaPAGPipeline",
        "SanaPipeline",
        "SanaVideoPipeline",
        "SkyReelsV2Pipeline",
        "WanPipeline",
        "WanVACEPipeline",
        "ZImageControlNetPipeline",
        "ZImagePipeline",
    }
)
"""Pipelines whose loop has float32 latents with a network of any dtype."""


class PipelineModel(Model):
    """A pipeline of diffusers, with the adapters that are loaded into it.

    All of its networks are put into eval mode, with requires_grad_(False), because the last bits of some CPU kernels
    depend on it. Outside of a call, the pipeline keeps its own scheduler. `call` has further arguments of every call.
    """

    pipelines: ClassVar[tuple[str, ...]] = ()
    """The names of the pipeline classes of diffusers that this class supports."""
    supports_batches = False
    float32_latents: bool = False
    """True if the pipeline's loop has float32 latents with a network of any dtype."""
    guidance: Guidance = "pipeline"

    def __init__(self, folder: Path | None, pipe: Any = None, call: Mapping[str, Any] | None = None) -> None:
        """Describe the pipeline in a folder, not loaded, or take a loaded pipeline.

        Raises:
            ModelError: The call of the pipeline cannot invert images, or does not take the arguments in `call`.
        """
        self.call = dict(call or {})
        self.folder = Path(pipe.name_or_path or type(pipe).__name__) if folder is None else folder
        self.kind = type(pipe) if pipe is not None else pipeline_class(self.folder)
        self.parameters = inspect.signature(self.kind.__call__).parameters
        self._check_call()
        names = {kind.__name__ for kind in self.kind.__mro__}
        self.supports_batches = self.supports_batches or bool(names & FIXED_LENGTH)
        self.float32_latents = self.float32_latents or bool(names & FLOAT32_LATENTS)
        self._schedules: dict[tuple[int, float, int | None], Schedule] = {}
        if pipe is not None:
            self._set_pipeline(pipe)

    def _check_call(self) -> None:
        """Check the parameters of the pipeline's call, and the arguments in `call`.

        Raises:
            ModelError: The call cannot invert images, or does not take these arguments.
        """
        if missing := [name for name in NEEDED if name not in self.parameters]:
            raise ModelError(
                f"model {self.folder}: the call of {self.kind.__name__} has no {', '.join(missing)}, so it cannot "
                "invert images. Use a text-to-image or text-to-video pipeline"
            )
        if "strength" in self.parameters:
            raise ModelError(
                f"model {self.folder}: {self.kind.__name__} starts from an image of its own. Use the text-to-image "
                "pipeline of the same model"
            )
        if taken := [name for name in self.call if name in RESERVED]:
            raise ModelError(f"call: `EDICT` itself gives {taken[0]} to the pipeline's call. Leave it out")
        if unknown := [name for name in self.call if name not in self.parameters]:
            raise ModelError(
                f"call: the call of {self.kind.__name__} has no argument {unknown[0]!r}. It has "
                f"{', '.join(name for name in self.parameters if name != 'self')}"
            )
        if needed := [
            name
            for name, argument in self.parameters.items()
            if argument.default is argument.empty
            and argument.kind is argument.POSITIONAL_OR_KEYWORD
            and name not in {"self", *NEEDED, *self.call}
        ]:
            raise ModelError(
                f"model {self.folder}: the call of {self.kind.__name__} needs {needed[0]}. Give it in `call`, or use "
                "the text-to-image pipeline of the same model"
            )
        height, width = (self.call.get(side) for side in ("height", "width"))
        if height != width or not isinstance(height, int | None) or (height is not None and height < 1):
            raise ModelError(
                f"call: height is {height!r} and width is {width!r}, but images are squares. Give both the same number"
            )

    def _set_pipeline(self, pipe: Any) -> None:
        """Use a loaded pipeline.

        Raises:
            ValueError: Its scheduler is not supported.
        """
        self.pipe = pipe
        for network in self.components.values():
            network.requires_grad_(False).eval()
        self.size = self._size()
        EDICTScheduler.from_config(pipe.scheduler.config)

    def load(self, checkpoint: Checkpoint, options: LoadOptions) -> Self:
        self.check(checkpoint)
        self._set_pipeline(load_pipeline(self.kind, checkpoint, options))
        self.prepare(options)
        return self

    def check(self, checkpoint: Checkpoint) -> None:
        check_components(self.kind, checkpoint)
        config = read_config(self.folder, "scheduler")
        try:
            EDICTScheduler.from_config(config)
        except ValueError as error:
            raise ModelError(f"model {self.folder}: {error}") from error

    @property
    def components(self) -> dict[str, nn.Module]:
        return {name: component for name, component in self.pipe.components.items() if isinstance(component, nn.Module)}

    @property
    def network(self) -> Any:
        return self.components[self.denoiser]

    @property
    def planned_size(self) -> int | None:
        return self.call.get("height")

    @property
    def has_negative(self) -> bool:
        # A network that takes the guidance scale itself (FLUX.1) has a second scale for negative prompts.
        scale = (
            self.call.get("true_cfg_scale", 1.0) if {"guidance_scale", "true_cfg_scale"} <= {*self.parameters} else 2.0
        )
        return "negative_prompt" in self.parameters and scale > 1

    @property
    def vae(self) -> Any:
        """The autoencoder.

        Raises:
            ModelError: The pipeline has none.
        """
        if getattr(self.pipe, "vae", None) is None:
            raise ModelError(
                f"model {self.folder}: {self.kind.__name__} has no autoencoder `vae`. Supply `encode` and `decode`: "
                "subclass edict.models.PipelineModel, and give EDICT(MyModel(None, pipe))"
            )
        return self.pipe.vae

    @property
    def has_video_vae(self) -> bool:
        """True if the autoencoder takes videos, so that its latents have an axis of frames."""
        return any(weight.ndim == 5 for weight in self.vae.parameters())

    @property
    def denoiser(self) -> str:  # type: ignore[override]
        """The name of the component that predicts."""
        return denoiser_of(self.pipe)

    def _size(self) -> int:
        if (side := self.call.get("height")) is not None:
            return int(side)
        height, width = (self._default(side) for side in ("height", "width"))
        if height is not None and height == width:
            return int(height)
        config, factor = self.network.config, getattr(self.pipe, "vae_scale_factor", None)
        latents = getattr(self.pipe, "default_sample_size", None) or getattr(config, "sample_size", None)
        if not isinstance(latents, int) or not factor:
            raise ModelError(f"model {self.folder}: the size of its images is unknown. Give height and width in `call`")
        return latents * int(factor)

    def schedule(self, sampling: Sampling) -> Schedule:
        key = sampling.steps, sampling.strength, sampling.steps_offset
        if key not in self._schedules:
            probe = ScheduleProbe.from_config(self._scheduler_config(sampling.steps_offset))
            latents = probe.invert(probe.encode(self._blank), strength=sampling.strength)
            try:
                self._run(probe, [""], latents, sampling.steps, 1.0, None)
            except ScheduleFound as found:
                self._schedules[key] = found.schedule
            except LAYOUT_ERRORS as error:
                if not any(frame.name == "set_timesteps" for frame in traceback.extract_tb(error.__traceback__)):
                    self._check_layout(error)
                raise
            else:
                raise ModelError(
                    f"model {self.folder}: {self.kind.__name__} does not call scheduler.set_timesteps, so it cannot "
                    "invert images. Use another pipeline"
                )
        return self._schedules[key]

    def planned_schedule(self, sampling: Sampling) -> Schedule | None:
        return None

    def _scheduler_config(self, steps_offset: int | None) -> dict[str, Any]:
        with CALL_LOCK:
            config = dict(self.pipe.scheduler.config)
        if steps_offset is None:
            return config
        if config.get("timestep_spacing") != "leading":
            raise ValueError("steps_offset is only valid for schedules with leading spacing. Leave it out")
        return config | {"steps_offset": steps_offset}

    @cached_property
    def _blank(self) -> torch.Tensor:
        return self.encode(torch.zeros(1, 3, self.size, self.size, device=self.device), None)

    def clean_end(self) -> Schedule:
        end: Schedule = EDICTScheduler.from_config(self._scheduler_config(None)).clean_end
        return end

    def solve(
        self,
        integration: Integration,
        captions: Sequence[str],
        guidance_scale: float,
        negative_captions: Sequence[str | None] | None = None,
    ) -> Integration:
        sampling, shape = integration.pair.sampling, integration.pair.x.shape[1:]
        if shape != self._blank.shape[1:]:
            raise ValueError(
                f"the pair has latents of {[*shape]}, and this model has {[*self._blank.shape[1:]]}: use the model and "
                "the size of the inversion"
            )
        scheduler: EDICTScheduler = EDICTScheduler.from_config(self._scheduler_config(sampling.steps_offset))
        if integration.ended:
            return integration
        latents = scheduler.arm(integration)
        try:
            self._run(scheduler, captions, latents, sampling.steps, guidance_scale, negative_captions)
        except (NonFinite, LatticeOverflow):
            if not scheduler.integration.ended:
                raise
        except LAYOUT_ERRORS as error:
            if not scheduler.step_index:
                self._check_layout(error)
            raise
        return scheduler.integration

    def _check_layout(self, error: Exception) -> None:
        """Explain an error before the first step, if the layout of the latents was a guess.

        Raises:
            ModelError: The layout of the latents can be the cause.
        """
        last = traceback.extract_tb(error.__traceback__)[-1].filename
        of_the_call = isinstance(error, ValueError) and not last.endswith("schedulers.py")
        if of_the_call or isinstance(error, torch.OutOfMemoryError) or type(self).pack is not PipelineModel.pack:
            return
        raise ModelError(
            f"model {self.folder}: the call of {self.kind.__name__} failed ({error}). It was given latents in the "
            f"layout of its autoencoder, {[*self._blank.shape]} for an image. If its loop has another layout or scale, "
            "supply `pack` and `unpack`: subclass edict.models.PipelineModel, and give EDICT(MyModel(None, pipe))"
        ) from error

    def _run(
        self,
        scheduler: Any,
        captions: Sequence[str],
        latents: torch.Tensor,
        steps: int,
        guidance_scale: float,
        negative_captions: Sequence[str | None] | None,
    ) -> None:
        """Call the pipeline, with its scheduler replaced."""
        arguments = self.arguments(captions, guidance_scale, negative_captions)
        dtype = torch.float32 if self.float32_latents else self.network.dtype
        arguments |= {
            "latents": self.call_latents(latents).to(dtype),
            "num_inference_steps": steps,
            "output_type": "latent",
        }
        defaults = {
            "height": self.size,
            "width": self.size,
            **dict.fromkeys(ONE_FRAME, 1),
            "use_resolution_binning": False,
            "clean_caption": False,  # Cleaning would change the text only where two optional packages are installed.
            "generator": torch.Generator().manual_seed(0),  # for pipelines that draw noise before their loop
        }
        arguments |= {name: value for name, value in defaults.items() if name in self.parameters}
        devices = [self.device] if self.device.type == "cuda" else []
        # Some pipelines draw noise without their generator, for example for the latents of a control image.
        with (
            self._with_scheduler(scheduler),
            self.using_guidance(guidance_scale),
            torch.random.fork_rng(devices=devices),
        ):
            torch.manual_seed(0)
            self.pipe(**arguments | self.call)

    @contextmanager
    def _with_scheduler(self, scheduler: Any) -> Iterator[None]:
        """Replace the pipeline's scheduler and hide its progress bar within the block. Only one call runs at a time."""
        with CALL_LOCK:
            own, bar = self.pipe.scheduler, getattr(self.pipe, "_progress_bar_config", None)
            self.pipe.scheduler = scheduler
            self.pipe.set_progress_bar_config(disable=True)
            try:
                yield
            finally:
                self.pipe.scheduler = own
                self.pipe._progress_bar_config = bar
                if bar is None:
                    del self.pipe._progress_bar_config

    @contextmanager
    def using_guidance(self, guidance_scale: float) -> Iterator[None]:
        """Set the guidance scale of the pipeline within the block, if it is not one of the call's `arguments`."""
        yield

    def arguments(
        self, captions: Sequence[str], guidance_scale: float, negative_captions: Sequence[str | None] | None
    ) -> dict[str, Any]:
        """Return the arguments of the call for the text and its guidance.

        Raises:
            ValueError: A negative caption has no effect.
        """
        arguments: dict[str, Any] = {"prompt": list(captions)}
        if "guidance_scale" in self.parameters:
            arguments["guidance_scale"] = guidance_scale
        if negative_captions is not None and any(caption is not None for caption in negative_captions):
            if not self.has_negative:
                more = ", or give true_cfg_scale in `call`" if "true_cfg_scale" in self.parameters else ""
                raise ValueError(f"a negative caption has no effect on {self.kind.__name__}: leave it out{more}")
            arguments["negative_prompt"] = [caption or "" for caption in negative_captions]
        return arguments

    def truncated(self, caption: str) -> bool:
        # A processor has a tokenizer.
        components = [getattr(component, "tokenizer", component) for component in self.pipe.components.values()]
        tokenizers = [component for component in components if hasattr(component, "model_max_length")]
        longest = self.call.get("max_sequence_length", self._default("max_sequence_length"))
        lengths = [tokenizer.model_max_length for tokenizer in tokenizers]
        if longest is not None and tokenizers:  # This is the limit of the encoder that takes the longest captions.
            lengths[lengths.index(max(lengths))] = longest
        return bool(tokenizers) and all(
            self.num_tokens(tokenizer, caption) > length for tokenizer, length in zip(tokenizers, lengths, strict=True)
        )

    def num_tokens(self, tokenizer: Any, caption: str) -> int:
        """Return the number of tokens of a caption that count for the encoder's limit, with those the pipeline adds."""
        return len(tokenizer(caption).input_ids)

    def _default(self, argument: str) -> Any:
        """Return the default of an argument of the call, or None."""
        parameter = self.parameters.get(argument)
        return None if parameter is None or parameter.default is parameter.empty else parameter.default

    def encode(self, pixels: torch.Tensor, posterior_seed: int | None) -> torch.Tensor:
        frames = pixels[:, :, None] if self.has_video_vae else pixels
        images = [encoded(self.vae, image, self.vae_dtype, posterior_seed) for image in frames.split(1)]
        return self.pack(torch.cat(images)).float()

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        images = torch.cat([self.vae_decode(self.unpack(latent.float())) for latent in latents.split(1)])
        return images[:, :, 0] if images.ndim == 5 else images

    def vae_decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the images or videos, float32, of the autoencoder's own latents."""
        return decoded(self.vae, latents, self.vae_dtype)

    def pack(self, latents: torch.Tensor) -> torch.Tensor:
        """Return an autoencoder's latents, float32 [N, C, (F,) H, W], in the layout and scale of the pipeline."""
        return self.normalized(latents)

    def unpack(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the autoencoder's latents of latents in the pipeline's layout and scale: undo `pack`."""
        return self.denormalized(latents)

    def call_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the argument `latents` of the call, for latents in the layout of the pipeline's loop, float32."""
        return latents

    def normalized(self, latents: torch.Tensor) -> torch.Tensor:
        """Return (z - shift) * factor of an autoencoder's latents z.

        Both come from its configuration: `scaling_factor` and `shift_factor`, and `latents_mean` and `latents_std` per
        channel.
        """
        shift, factor = self._statistics(latents)
        return (latents - shift) * factor

    def denormalized(self, latents: torch.Tensor) -> torch.Tensor:
        """Undo `normalized`."""
        shift, factor = self._statistics(latents)
        return latents / factor + shift

    def scaling_factor(self) -> float:
        """Return the factor of the latents that is the same for every channel."""
        return getattr(self.vae.config, "scaling_factor", None) or 1.0

    def _statistics(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        config, buffers = self.vae.config, dict(self.vae.named_buffers(recurse=False))
        mean, std = (buffers.get(name, getattr(config, name, None)) for name in ("latents_mean", "latents_std"))
        shift = torch.as_tensor(getattr(config, "shift_factor", None) or 0.0 if mean is None else mean)
        factor = self.scaling_factor() / torch.as_tensor(1.0 if std is None else std)
        dims = (1, -1, *[1] * (latents.ndim - 2))
        return shift.view(dims).to(latents), factor.view(dims).to(latents)

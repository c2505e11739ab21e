"""A pair of coupled states, with its schedule and the settings of its sampler."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from edict.lattice import from_lattice
from edict.samplers import SAMPLERS
from edict.schedule import Schedule
from schemas.sampling import Sampling

FORMAT = 1
"""The version of the format of `Pair.save`."""


@dataclass(frozen=True, repr=False, eq=False)
class Pair:
    """Two coupled states of N samples on the lattice, with everything that their regeneration needs.

    The last bits of a network depend on the batch size, and can depend on a sample's slot in its batch. So a pair has
    its batch size. To regenerate a subset of the samples exactly, give their `slots` to `EDICT.integrate`.

    Attributes:
        x: int64 [N, ...].
        y: int64 [N, ...]: the second state of EDICT, the next state of a two-step method, or x again for DDIM.
        schedule: The steps of the inversion.
        position: The position of x in the schedule; 0 is the noisy end.
        sampling: The sampler and its settings, with their defaults (`edict.samplers.with_defaults`).
        batch_size: The batch size of the network calls.
    """

    x: torch.Tensor
    y: torch.Tensor
    schedule: Schedule
    position: int
    sampling: Sampling
    batch_size: int

    def __len__(self) -> int:
        return len(self.x)

    def __eq__(self, other: object) -> bool:
        """Return whether both pairs have the same integers, in the same scale."""
        if not isinstance(other, Pair):
            return NotImplemented
        if (self.bits, self.scales, self.x.shape) != (other.bits, other.scales, other.x.shape):
            return False
        other = other.to(self.x.device)
        return torch.equal(self.x, other.x) and torch.equal(self.y, other.y)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        states, scale = "x".join(map(str, self.x.shape[1:])), self.sampling.guidance_scale
        return (
            f"Pair({len(self)} of {states} on {self.x.device}, position {self.position} of {self.schedule.num_steps}, "
            f"{self.sampling.name}, guidance_scale={'unknown' if scale is None else f'{scale:g}'})"
        )

    def __getitem__(self, rows: int | slice | Sequence[int] | torch.Tensor) -> "Pair":
        """Return the pair of some samples. An integer gives a pair of one sample."""
        if isinstance(rows, int | np.integer):
            rows = [range(len(self))[rows]]
        return replace(self, x=self.x[rows], y=self.y[rows])

    def save(self, file: str | Path) -> None:
        """Save the pair as a safetensors file: `x` and `y`, int64, and everything else as JSON in its metadata.

        Raises:
            ValueError: The folder of the file does not exist.
        """
        if not Path(file).parent.is_dir():
            raise ValueError(f"{file}: there is no folder {Path(file).parent}. Make it first")
        metadata = {
            "format": FORMAT,
            "schedule": asdict(self.schedule),
            "position": self.position,
            "sampling": self.sampling.model_dump(),
            "batch_size": self.batch_size,
        }
        states = {name: state.contiguous().cpu() for name, state in (("x", self.x), ("y", self.y))}
        save_file(states, file, metadata={"edict.pair": json.dumps(metadata)})

    @classmethod
    def load(cls, file: str | Path) -> "Pair":
        """Load a pair that `save` wrote. Its states are on the CPU.

        Raises:
            ValueError: The file is not a pair, or a newer version wrote it.
        """
        try:
            with safe_open(file, "pt") as tensors:
                metadata = json.loads((tensors.metadata() or {}).get("edict.pair", "null"))
                states = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{file}: cannot be read as a pair ({error}). Give a file that Pair.save wrote") from error
        if metadata is None or states.keys() != {"x", "y"}:
            raise ValueError(f"{file}: is not a pair. Give a file that Pair.save wrote")
        if metadata["format"] != FORMAT:
            raise ValueError(
                f"{file}: has format {metadata['format']}, and this version reads {FORMAT}. Upgrade edict-pipeline"
            )
        fields: dict[str, Any] = {name: values and tuple(values) for name, values in metadata["schedule"].items()}
        schedule, sampling = Schedule(**fields), Sampling(**metadata["sampling"])
        return cls(states["x"], states["y"], schedule, metadata["position"], sampling, metadata["batch_size"])

    def to(self, device: torch.device) -> "Pair":
        """Return the pair with its states on `device`."""
        return replace(self, x=self.x.to(device), y=self.y.to(device))

    @property
    def bits(self) -> int:
        """The fractional bits of the lattice."""
        return self.sampling.bits or SAMPLERS[self.sampling.name].bits

    @property
    def guidance_scale(self) -> float:
        """The guidance scale of the inversion.

        Raises:
            ValueError: A scheduler made the pair, so the scale is unknown.
        """
        return self.sampling.known_guidance_scale

    @property
    def timesteps_without_cfg(self) -> frozenset[float]:
        """The timesteps at which guidance does not apply."""
        return self.schedule.timesteps_outside(self.sampling.guidance_interval)

    @property
    def scales(self) -> tuple[float, float]:
        """The scales of x and y on the lattice."""
        position = min(self.position + SAMPLERS[self.sampling.name].y_lead, self.schedule.num_steps)
        return self.schedule.scale(self.position), self.schedule.scale(position)

    def to_float(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return x and y in the model's usual scale, float64 [N, ...]: integer * 2^-bits * scale."""
        scale_x, scale_y = self.scales
        return from_lattice(self.x, scale_x, self.bits), from_lattice(self.y, scale_y, self.bits)

    def drift(self) -> torch.Tensor:
        """Return the root mean square of x - y per sample, in the model's scale, float64 [N].

        For EDICT it is only the error of the integration. For a two-step method it includes the change of one step.
        """
        x, y = self.to_float()
        # The samples are computed one by one, because the order of additions in a sum depends on the batch.
        return torch.stack([difference.square().mean().sqrt() for difference in x - y])

    def std(self) -> torch.Tensor:
        """Return the standard deviation of the noise per sample, float64 [N]. Noise of the training has about 1.

        It is computed from the mean of x and y if they are at one position, and otherwise from x.
        """
        x, y = self.to_float()
        noise = x if SAMPLERS[self.sampling.name].y_lead else (x + y) / 2
        return torch.stack([state.std(correction=0) for state in noise])

    def digests(self) -> list[str]:
        """Return the sha256 per sample, over the little-endian int64 bytes of x and then y."""
        both = torch.stack([self.x, self.y], 1).contiguous().cpu()
        return [sha256(sample.numpy().astype("<i8").tobytes()).hexdigest() for sample in both]


def join(pairs: Sequence[Pair]) -> Pair:
    """Return several pairs, at the same position of the same schedule, as one pair."""
    return replace(pairs[0], x=torch.cat([pair.x for pair in pairs]), y=torch.cat([pair.y for pair in pairs]))

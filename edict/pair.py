"""The pair of coupled states, with what is needed to go on from it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from hashlib import sha256

import torch

from edict.lattice import from_lattice
from edict.schedule import Schedule


@dataclass(frozen=True)
class Pair:
    """x and y: int64 lattice states [N, C, H, W] at `position` of `schedule` (0 is the noisy end).

    `batch_size` is the shape the network was run in. It belongs to the pair because a network's last bits depend on it:
    regenerated in the same shape, a pair is exact.
    """

    x: torch.Tensor
    y: torch.Tensor
    schedule: Schedule
    position: int
    p: Fraction
    bits: int
    guidance_scale: float
    batch_size: int

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: slice | list[int]) -> "Pair":
        return replace(self, x=self.x[rows], y=self.y[rows])

    def to_float(self) -> tuple[torch.Tensor, torch.Tensor]:
        """x and y in the model's usual scale, float64 [N, C, H, W]: integer * 2^-bits * scale."""
        scale = self.schedule.scale(self.position)
        return from_lattice(self.x, scale, self.bits), from_lattice(self.y, scale, self.bits)

    def drift(self) -> torch.Tensor:
        """How far the two states came apart, a sample: root mean square of x - y in the model's scale, float64 [N]."""
        x, y = self.to_float()
        # one by one: a sum over a batch is added up in an order that depends on the batch
        return torch.stack([difference.square().mean().sqrt() for difference in x - y])

    def std(self) -> torch.Tensor:
        """The standard deviation of the mean state, a sample, float64 [N]: about 1 for noise the model knows."""
        x, y = self.to_float()
        return torch.stack([state.std(correction=0) for state in (x + y) / 2])

    def digests(self) -> list[str]:
        """sha256 over the little-endian int64 bytes of x then y, a sample: equal digests are equal integers."""
        both = torch.stack([self.x, self.y], 1).contiguous().cpu()
        return [sha256(sample.numpy().astype("<i8").tobytes()).hexdigest() for sample in both]


def join(pairs: Sequence[Pair]) -> Pair:
    """Pairs that stand at the same position of the same schedule, as one."""
    return replace(pairs[0], x=torch.cat([pair.x for pair in pairs]), y=torch.cat([pair.y for pair in pairs]))

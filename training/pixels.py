"""The training pictures as arrays: sampled with weights, on backgrounds, as tensors in [-1, 1]."""

import numpy as np
import torch

from training.emoji import BACKGROUNDS, Picture, composite


class Pixels:
    """Pictures to draw batches from. Those with a skin tone weigh half: they are as many as all the rest."""

    def __init__(self, pictures: dict[Picture, np.ndarray]) -> None:
        self.pictures = list(pictures)
        self.rgba = np.stack(list(pictures.values()))
        weights = np.array([0.5 if p.tone else 1.0 for p in self.pictures])
        self.weights = weights / weights.sum()

    def augmented(self, rng: np.random.Generator, count: int, *, plain: bool = False) -> torch.Tensor:
        """float32 [count, 3, 64, 64]: on the nine backgrounds when `plain`, else half on any colour and shifted."""
        chosen = rng.choice(len(self.pictures), count, p=self.weights)
        colours = np.array(list(BACKGROUNDS.values()))[rng.integers(len(BACKGROUNDS), size=count)]
        rgba = self.rgba[chosen]
        if not plain:
            free = rng.random(count) < 0.5
            colours[free] = rng.integers(0, 256, (int(free.sum()), 3))
            shift = rng.integers(-8, 9, (count, 2))
            rgba = np.stack(
                [
                    np.roll(image, tuple(s), (0, 1)) if f else image
                    for image, s, f in zip(rgba, shift, free, strict=True)
                ]
            )
        alpha = rgba[..., 3:].astype(np.float32) / 255
        over = rgba[..., :3] * alpha + colours[:, None, None].astype(np.float32) * (1 - alpha)
        return torch.from_numpy(over / 127.5 - 1).permute(0, 3, 1, 2).contiguous()

    def on(self, index: int, background: str) -> np.ndarray:
        return composite(self.rgba[index], background)

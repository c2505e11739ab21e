"""The drawings as arrays, and random batches of them on backgrounds."""

import numpy as np
import torch

from training.emoji import BACKGROUNDS, Drawing, composite


class Pixels:
    """Drawings, from which batches are sampled. Those with a skin tone are frequent, so they have half the weight."""

    def __init__(self, drawings: dict[Drawing, np.ndarray]) -> None:
        self.drawings = list(drawings)
        self.rgba = np.stack(list(drawings.values()))
        weights = np.array([0.5 if drawing.tone else 1.0 for drawing in self.drawings])
        self.weights = weights / weights.sum()

    def augmented(self, rng: np.random.Generator, count: int, *, plain: bool = False) -> torch.Tensor:
        """Return a random batch of images, float32 [count, 3, 64, 64] on [-1, 1].

        With `plain`, all are on the nine backgrounds. Otherwise half of them are shifted and on a random colour.
        """
        chosen = rng.choice(len(self.drawings), count, p=self.weights)
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
        """Return a drawing on a background, uint8 [64, 64, 3]."""
        return composite(self.rgba[index], background)

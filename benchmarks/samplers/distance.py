"""Distances between two sets of images: the Fréchet and the kernel distance of their features, FID and KID.

Heusel et al., 1706.08500, and Bińkowski et al., 1801.01401, who use the features of Inception. Here the features are
those of the shipped model's UNet, so no figure compares with a published one.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from edict import EDICT

TIMESTEP = 1  # the last timestep of most schedules, which has as little noise as a clean image


@torch.inference_mode()
def features(model: EDICT, images: Sequence[Image.Image], batch: int) -> np.ndarray:
    """Return the output of the UNet's middle block for the encoded images, averaged over positions, float64 [N, D].

    The caption is empty and the timestep is TIMESTEP. D is 192 for the shipped model.
    """
    found: list[np.ndarray] = []

    def keep(_: torch.nn.Module, __: object, activations: torch.Tensor) -> None:
        found.append(activations.mean((2, 3)).double().cpu().numpy())

    hook = model.network.mid_block.register_forward_hook(keep)
    try:
        for first in range(0, len(images), batch):
            latents = model.encode(images[first : first + batch]).to_float()[0]
            model.direct.predictor([""] * len(latents), 1.0)(latents, TIMESTEP)
    finally:
        hook.remove()
    return np.concatenate(found)


def standardized(features: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Standardize each dimension of [N, D] by the mean and the standard deviation of the reference [M, D]."""
    return (features - reference.mean(0)) / reference.std(0)


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Return the squared Fréchet distance of the Gaussians with the means and covariances of [N, D] and [M, D].

    It is biased upwards, more so for fewer samples.
    """
    of_a, of_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(of_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ of_b @ root).clip(0)).sum()
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(of_a) + np.trace(of_b) - 2 * shared)


def kernel(a: np.ndarray, b: np.ndarray) -> float:
    """Return the squared maximum mean discrepancy of [N, D] and [M, D] under (a . b / D + 1)^3.

    It is unbiased, so it can be negative.
    """
    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (_kernel(a, a), _kernel(b, b))]
    return float(sum(within) - 2 * _kernel(a, b).mean())


def kernel_subsets(a: np.ndarray, b: np.ndarray, *, subsets: int, size: int) -> np.ndarray:
    """Return `kernel` of random subsets of `size` rows of each, drawn with one seed, float64 [subsets]."""
    draw = np.random.default_rng(0)
    drawn = [[draw.choice(len(rows), size, replace=False) for rows in (a, b)] for _ in range(subsets)]
    return np.array([kernel(a[ours], b[theirs]) for ours, theirs in drawn])


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a @ b.T / a.shape[1] + 1) ** 3

"""Calls that draw noise before their loop, as for the latents of a control image."""

import torch


def seeded(latents: torch.Tensor) -> torch.Tensor:
    """Seed PyTorch, so that each call draws the same noise, and return the latents."""
    torch.manual_seed(0)
    return latents

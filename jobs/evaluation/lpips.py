"""LPIPS on SqueezeNet: the perceptual distance of two images, by the features of a network.

Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, CVPR 2018, 1801.03924. The weights
of the features are torchvision's. The weights of the channels come with torchmetrics. The network is built here:
torchmetrics takes it from torchvision, which downloads it, and each build of torchvision needs its own build of torch.
"""

from collections.abc import Callable
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path

import torch
from torch import nn

from jobs.evaluation.errors import EvaluationError
from schemas.errors import first_line

FILE = "squeezenet1_1-b8a52dc0.pth"
URL = f"https://download.pytorch.org/models/{FILE}"
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
TAPS = (1, 4, 7, 9, 10, 11, 12)  # the layers whose outputs are compared


class Fire(nn.Module):
    """A Fire module of SqueezeNet (Iandola et al., 1602.07360): a narrow layer, then 1x1 and 3x3 filters."""

    def __init__(self, channels: int, narrow: int, wide: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, narrow, 1)
        self.expand1x1 = nn.Conv2d(narrow, wide, 1)
        self.expand3x3 = nn.Conv2d(narrow, wide, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x).relu(), self.expand3x3(x).relu()], 1)


def squeezenet() -> nn.Sequential:
    """Return the feature layers of SqueezeNet 1.1, with the parameter names of torchvision."""
    pool = partial(nn.MaxPool2d, 3, stride=2, ceil_mode=True)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, stride=2),
        nn.ReLU(),
        pool(),
        Fire(64, 16, 64),
        Fire(128, 16, 64),
        pool(),
        Fire(128, 32, 128),
        Fire(256, 32, 128),
        pool(),
        Fire(256, 48, 192),
        Fire(384, 48, 192),
        Fire(384, 64, 256),
        Fire(512, 64, 256),
    )


def weights_file(path: Path) -> Path:
    """Return the file of the weights, given the file itself or its folder."""
    return path / FILE if path.is_dir() else path


def load_lpips(path: Path, device: torch.device) -> Callable[[torch.Tensor, torch.Tensor], float]:
    """Return a function that computes the LPIPS of two images, float32 [3, H, W] on [-1, 1].

    `path` is the file of torchvision's SqueezeNet 1.1, or its folder.

    Raises:
        EvaluationError: The file does not exist, or has other weights.
    """
    file = weights_file(path)
    try:
        weights = torch.load(file, map_location="cpu", weights_only=True)
        features = squeezenet()
        features.load_state_dict({name[9:]: tensor for name, tensor in weights.items() if name.startswith("features.")})
    except FileNotFoundError as error:
        raise EvaluationError(f"--lpips {path}: {file} does not exist. Download {URL}") from error
    except Exception as error:  # Unpickling another file can raise nearly any error.
        raise EvaluationError(
            f"--lpips {path}: {file.name} is not torchvision's SqueezeNet 1.1 ({first_line(error)}). Download {URL}"
        ) from error
    with as_file(files("torchmetrics") / "functional/image/lpips_models/squeeze.pth") as heads_file:
        heads = torch.load(heads_file, map_location=device, weights_only=True)
    features = features.eval().to(device)
    shift, scale = (torch.tensor(values, device=device)[:, None, None] for values in (SHIFT, SCALE))

    @torch.inference_mode()
    def distance(a: torch.Tensor, b: torch.Tensor) -> float:
        x = (torch.stack([a, b]).to(device) - shift) / scale
        total = torch.zeros((), device=device)
        for i, layer in enumerate(features):
            x = layer(x)
            if i in TAPS:
                one, other = x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt()
                channels = heads[f"lin{TAPS.index(i)}.model.1.weight"][0]
                total += ((one - other).square() * channels).sum(0).mean()
        return float(total)

    return distance

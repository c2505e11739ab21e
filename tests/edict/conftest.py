"""Fixtures of the tests of the model: the shipped model, loaded once, images and captions."""

import numpy as np
import pytest
from PIL import Image

from edict import EDICT
from tests.edict.checkpoints import Folder, save

CAPTIONS = ["red heart", "a cat on a blue background", "", "two green apples, close together", "dog face"]


@pytest.fixture(scope="session")
def model() -> EDICT:
    return EDICT.from_pretrained()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Return a function from a kind to the folder of its small checkpoint, saved at the first call."""
    root = tmp_path_factory.mktemp("checkpoints")
    return lambda kind: root / kind if (root / kind).exists() else save(kind, root / kind)


@pytest.fixture(scope="session")
def images() -> list[Image.Image]:
    """Return five different images of soft shapes, of different sizes."""
    images = []
    for i in range(5):
        noise = np.random.default_rng(i).integers(0, 256, (4 + i, 5, 3), dtype=np.uint8)
        images.append(Image.fromarray(noise).resize((64 + 16 * i, 96), Image.Resampling.BICUBIC))
    return images


@pytest.fixture(scope="session")
def captions() -> list[str]:
    return CAPTIONS

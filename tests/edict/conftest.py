"""What the tests of the model share: the shipped model loaded once, pictures, captions."""

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
    """Small checkpoints, each saved at the first call that names its kind."""
    root = tmp_path_factory.mktemp("checkpoints")
    return lambda kind: root / kind if (root / kind).exists() else save(kind, root / kind)


@pytest.fixture(scope="session")
def images() -> list[Image.Image]:
    """Five pictures of soft shapes, unlike each other, of unlike sizes."""
    pictures = []
    for i in range(5):
        noise = np.random.default_rng(i).integers(0, 256, (4 + i, 5, 3), dtype=np.uint8)
        pictures.append(Image.fromarray(noise).resize((64 + 16 * i, 96), Image.Resampling.BICUBIC))
    return pictures


@pytest.fixture(scope="session")
def captions() -> list[str]:
    return CAPTIONS

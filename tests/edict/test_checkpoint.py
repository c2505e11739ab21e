"""The folders that are models, the errors for others, and the digest of a model."""

import json
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image

from edict import EDICT, ModelError
from edict.checkpoint import DEFAULT, locate
from edict.model_files import weights_digest
from edict.models import describe
from tests.edict.checkpoints import text_encoder, tokenizer

WEIGHTS = [
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
]


@pytest.fixture(scope="module")
def shipped_by_others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a small random Stable Diffusion 1.x, of 24x24 pixels and 6x12x12 latents, as diffusers saves it."""
    torch.manual_seed(0)
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            latent_channels=6,
            sample_size=24,
        ),
        text_encoder=text_encoder(width=24),
        tokenizer=tokenizer(),
        unet=UNet2DConditionModel(
            sample_size=12,
            in_channels=6,
            out_channels=6,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(16, 32),
            layers_per_block=1,
            cross_attention_dim=24,
            attention_head_dim=8,
            norm_num_groups=8,
        ),
        scheduler=PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    folder = tmp_path_factory.mktemp("checkpoint")
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(shipped_by_others: Path, tmp_path: Path) -> Path:
    """Return a copy of a checkpoint that a test can change."""
    return shutil.copytree(shipped_by_others, tmp_path / "copy")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Set an empty hub cache and no network. huggingface_hub has already read HF_HUB_OFFLINE=1."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def change(file: Path, **fields: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.mark.parametrize("as_type", [str, Path])
def test_another_checkpoint_of_the_family_round_trips_exactly(shipped_by_others: Path, as_type: type) -> None:
    model = EDICT.from_pretrained(as_type(shipped_by_others))
    assert model.size == 24
    assert model.backend.scheduler_config["_class_name"] == "PNDMScheduler"
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, 40, 30, 3), dtype=torch.uint8, generator=generator).numpy()
    start = model.encode([Image.fromarray(image) for image in pixels])
    assert start.x.shape == (3, 6, 12, 12)
    texts = ["a cat", "", "two red hearts"]
    pair = model.invert(start, texts, steps=7, strength=0.8, guidance_scale=7.0, batch_size=2)
    assert pair.schedule.timesteps == (569, 427, 285, 143, 1)
    same = model.generate(pair, texts, output_type="latent")
    assert torch.equal(same.x, start.x) and torch.equal(same.y, start.y)
    assert [image.size for image in model.generate(pair, texts)] == [(24, 24)] * 3


def test_the_default_is_the_shipped_folder() -> None:
    assert locate() == locate(None) == locate("default") == DEFAULT
    assert describe(DEFAULT).size == 64


def test_a_tilde_is_the_home_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert locate("~/copy") == folder


@pytest.mark.parametrize("as_type", [str, Path])
@pytest.mark.parametrize("name", ["/no/such", "./no/such", "~/no-such", "nosuch", "a/b/c"])
def test_a_missing_folder_is_named(name: str, as_type: type, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="there is no such folder") as caught:
        EDICT.from_pretrained(as_type(name))
    assert str(as_type(name)) in str(caught.value)


def test_a_path_object_is_never_a_hub_id() -> None:
    with pytest.raises(ModelError, match="there is no such folder"):
        locate(Path("owner/name"))


def test_a_folder_without_model_index_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model_index\.json"):
        locate(tmp_path)


def test_another_pipeline_class_is_named(folder: Path) -> None:
    change(folder / "model_index.json", _class_name="KandinskyPipeline")
    with pytest.raises(ModelError, match="the call of KandinskyPipeline needs image_embeds"):
        EDICT.from_pretrained(folder)
    change(folder / "model_index.json", _class_name="MyPipeline")
    with pytest.raises(
        ModelError, match=r"is a MyPipeline, which diffusers [\d.]+ does not have. Code in a checkpoint is not run"
    ):
        EDICT.from_pretrained(folder)


def test_another_prediction_is_named(folder: Path) -> None:
    change(folder / "scheduler/scheduler_config.json", prediction_type="sample")
    with pytest.raises(ModelError, match=r"'sample' .*; only epsilon and v_prediction are supported"):
        EDICT.from_pretrained(folder)


@pytest.mark.parametrize("part", ["scheduler/scheduler_config.json", "vae/config.json", "unet/config.json"])
def test_a_missing_configuration_is_named(folder: Path, part: str) -> None:
    (folder / part).unlink()
    with pytest.raises(ModelError, match=f"no {part}, so it is incomplete"):
        EDICT.from_pretrained(folder)


def test_pickled_weights_are_an_error(folder: Path) -> None:
    weights = folder / WEIGHTS[0]
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    torch.save(unet.state_dict(), weights.with_suffix(".bin"))
    weights.unlink()
    assert isinstance(UNet2DConditionModel.from_pretrained(folder, subfolder="unet"), UNet2DConditionModel)
    with pytest.raises(ModelError, match="unet has only pickled weights"):
        EDICT.from_pretrained(folder)


def test_a_hub_id_that_cannot_be_downloaded_gives_an_error_of_one_line(offline: Path) -> None:
    with pytest.raises(
        ModelError, match="'nobody/no-such-model': there is no such folder here, and the download"
    ) as caught:
        EDICT.from_pretrained("nobody/no-such-model")
    assert "\n" not in str(caught.value)
    assert "give a local folder" in str(caught.value)


def test_an_invalid_hub_id_is_the_same_error(offline: Path) -> None:
    with pytest.raises(ModelError, match="the download from the hub failed"):
        locate("not valid!/--")


def test_a_hub_id_in_the_cache_needs_no_network(offline: Path, shipped_by_others: Path) -> None:
    commit = "0" * 40
    repository = offline / "models--someone--small"
    snapshot = shutil.copytree(shipped_by_others, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    for revision in ("main", "v1"):
        (repository / "refs" / revision).write_text(commit)
    assert locate("someone/small") == locate("someone/small", "v1") == snapshot
    with pytest.raises(ModelError, match="the download from the hub failed"):
        locate("someone/small", "v2")
    assert EDICT.from_pretrained("someone/small").size == 24


@pytest.mark.parametrize(
    "name",
    [*WEIGHTS, "scheduler/scheduler_config.json", "unet/config.json", "vae/config.json", "text_encoder/config.json"],
)
@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_any_byte_with_an_effect_changes_the_digest(folder: Path, name: str, fraction: float) -> None:
    before = weights_digest(folder)
    content = bytearray((folder / name).read_bytes())
    content[int(fraction * (len(content) - 1))] ^= 1
    (folder / name).write_bytes(content)
    assert weights_digest(folder) != before


def test_the_tokenizer_is_part_of_the_digest(folder: Path) -> None:
    digests = {weights_digest(folder)}
    for file in sorted((folder / "tokenizer").iterdir()):
        file.write_bytes(file.read_bytes() + b" ")
        digests.add(weights_digest(folder))
    assert len(digests) == 1 + len(list((folder / "tokenizer").iterdir())) > 2


def test_files_that_swap_contents_change_the_digest(folder: Path) -> None:
    before = weights_digest(folder)
    one, other = folder / WEIGHTS[0], folder / WEIGHTS[1]
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    assert weights_digest(folder) != before


def test_files_without_effect_are_not_in_the_digest(folder: Path, shipped_by_others: Path) -> None:
    (folder / "README.md").write_text("a card")
    (folder / "LICENSE").write_text("a licence")
    change(folder / "model_index.json", _diffusers_version="0.0.0", _name_or_path="elsewhere")
    assert weights_digest(folder) == weights_digest(shipped_by_others)

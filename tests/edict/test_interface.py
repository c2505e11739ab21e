"""Arguments as a user of diffusers types them: images, texts, output types, devices and dtypes by name."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import edict
from edict import EDICT, Control, Pair
from edict.image_processor import to_pil


def test_dir_lists_the_public_names() -> None:
    assert set(edict.__all__) <= set(dir(edict))
    assert all(getattr(edict, name) is not None for name in dir(edict))
    assert "import_module" not in dir(edict)


def test_one_image_with_one_caption_needs_no_lists(model: EDICT, images: list[Image.Image]) -> None:
    pair = model.invert(images[0], "cat", steps=2)
    assert len(pair) == 1
    assert pair.digests() == model.invert([images[0]], ["cat"], steps=2).digests()
    [edited], [same] = model.generate(pair, "dog"), model.generate(pair, ["dog"])
    assert edited.tobytes() == same.tobytes()
    made, _ = model.edit(model.invert(images[0], "cat", steps=2, batch_size=2), "cat", [["dog"]], control=Control())
    assert len(made) == 2
    with pytest.raises(ValueError, match=r"prompts is not a list of lists: give a list of texts per sample"):
        model.edit(pair, "cat", ["dog"], control=Control())
    with pytest.raises(ValueError, match="the pair has 2 samples, but there are 1 captions: give one per sample"):
        model.generate(pair[[0, 0]], "cat")


def test_an_image_of_any_kind_gives_the_same_pair(model: EDICT, images: list[Image.Image], tmp_path: Path) -> None:
    resized = [image.resize((80, 64)) for image in images[:2]]
    for i, image in enumerate(resized):
        image.save(tmp_path / f"{i}.png")
    arrays = np.stack([np.asarray(image) for image in resized])
    floats = (arrays / 255).astype(np.float32)
    tensor = torch.from_numpy(floats).permute(0, 3, 1, 2)
    kinds: list[Any] = [
        (resized[0], resized[1]),
        [str(tmp_path / "0.png"), tmp_path / "1.png"],
        arrays,
        list(arrays),
        floats,
        floats.astype(np.float64),
        tensor,
        list(tensor),
        torch.from_numpy(arrays).permute(0, 3, 1, 2),
        [resized[0], tensor[1]],
    ]
    expected = model.encode(resized).digests()
    for kind in kinds:
        assert model.encode(kind).digests() == expected
    for one in (str(tmp_path / "0.png"), arrays[0], floats[0], tensor[0]):
        assert model.encode(one).digests() == expected[:1]


def test_grey_images_are_accepted() -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for kind in (grey, grey[..., None], torch.from_numpy(grey)[None]):
        [image] = to_pil(kind)
        assert (image.mode, image.size, image.tobytes()) == ("L", (4, 3), grey.tobytes())


def test_an_image_file_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (4, 2), "red").save(tmp_path / "turned.jpg", exif=exif)
    assert to_pil(tmp_path / "turned.jpg")[0].size == (2, 4)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "found none"),
        ("nowhere.png", r"image 0: nowhere\.png does not exist; expected the name of an image file"),
        (Path(__file__).parent, "image 0: .* is a folder; expected the name of an image file"),
        (io.BytesIO(), "image 0: is of type BytesIO; expected a PIL image, an array, a tensor or a file name"),
        (np.zeros((3, 8, 8), np.uint8), r"has the shape \[3, 8, 8\]"),
        (np.zeros((8, 8, 4), np.uint8), r"has the shape \[8, 8, 4\]"),
        (torch.zeros(8, 8), r"is a tensor of shape \[8, 8\]"),
        (np.full((8, 8, 3), 255.0), "values from 255 to 255; expected floats on"),
        (np.full((8, 8, 3), np.nan), "values from nan to nan"),
        (torch.full((3, 8, 8), -1.0), "values from -1 to -1"),
        (np.zeros((8, 8, 3), np.int64), "values of int64"),
        ([np.zeros((8, 8, 3), np.uint8), None], "image 1: is of type NoneType"),
    ],
)
def test_an_invalid_image_is_an_error(images: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_pil(images)


def test_output_types_equal_those_of_diffusers(model: EDICT, images: list[Image.Image]) -> None:
    start = model.encode(images[:2])
    pair = model.invert(start, ["a", "b"], steps=1)
    decoded = model.generate(pair, ["a", "b"])
    arrays = model.generate(pair, ["a", "b"], output_type="np")
    tensor = model.generate(pair, ["a", "b"], output_type="pt")
    assert (arrays.shape, arrays.dtype) == ((2, 64, 64, 3), np.float32)
    assert (tensor.shape, tensor.dtype) == ((2, 3, 64, 64), torch.float32)
    assert arrays.min() >= 0 and arrays.max() <= 1
    assert np.array_equal(arrays, tensor.permute(0, 2, 3, 1).numpy())
    assert np.array_equal((arrays * 255).round().astype(np.uint8), np.stack([np.asarray(one) for one in decoded]))
    assert model.generate(pair, ["a", "b"], output_type="latent").digests() == start.digests()
    with pytest.raises(ValueError, match="output_type is 'numpy': expected pil or np or pt or latent"):
        model.generate(pair, ["a", "b"], output_type="numpy")  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"strength": 2}, "strength is 2: expected at most 1"),
        ({"strength": 0}, "strength is 0"),
        ({"steps": 0}, "steps is 0: expected at least 1"),
        ({"steps": 2.5}, r"steps is 2\.5"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"bits": 0}, "bits is 0: expected at least 1"),
        ({"guidance_scale": -1}, "guidance_scale is -1: expected at least 0"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"guidance_scale": "3"}, "guidance_scale is '3'"),
        ({"steps_offset": -1}, "steps_offset is -1"),
        ({"guidance_interval": (5.0, 0.5)}, "give two noise levels, the lower one first"),
        ({"guidance_interval": (5.0,)}, "give two noise levels"),
        ({"guidance_interval": 3}, "guidance_interval is 3: expected a list"),
        ({"guidance_interval": (None, 3.0)}, r"guidance_interval is \[None, 3.0\]: expected a number"),
        ({"steps": True}, "steps is True: expected a whole number"),
        ({"strength": True}, "strength is True: expected a number"),
        ({"sampler": "ddpm"}, "sampler is 'ddpm': expected 'edict', "),
        ({"gamma": 0.9}, "gamma is only valid for the sampler bdia"),
    ],
)
def test_an_argument_out_of_its_range_is_an_error(
    model: EDICT, images: list[Image.Image], argument: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model.invert(images[0], "cat", **{"steps": 2, **argument})


def test_a_pair_has_its_own_bits_and_guidance_is_checked(model: EDICT, images: list[Image.Image]) -> None:
    start = model.encode(images[0], bits=10)
    with pytest.raises(ValueError, match="bits is 12, and the pair has 10; leave bits out"):
        model.invert(start, "cat", steps=2, bits=12)
    pair = model.invert(start, "cat", steps=2, bits=10)
    with pytest.raises(ValueError, match="guidance_scale is -2"):
        model.generate(pair, "cat", guidance_scale=-2)


def test_numbers_of_numpy_are_numbers(model: EDICT, images: list[Image.Image]) -> None:
    given: dict[str, Any] = {"steps": np.int64(2), "strength": np.float32(1), "guidance_scale": np.float32(3)}
    pair = model.invert(images[0], "cat", bits=np.int32(12), **given)
    assert pair.digests() == model.invert(images[0], "cat", steps=2, guidance_scale=3.0, bits=12).digests()


def test_another_kind_of_argument_is_an_error_that_names_it(model: EDICT, images: list[Image.Image]) -> None:
    pair, control, any_model = model.invert(images[0], "cat", steps=2), Control(), cast(Any, model)
    calls: list[tuple[Callable[[], Any], str]] = [
        (lambda: any_model.generate(images[0], "cat"), r"pair is of type Image: expected a Pair, such as `invert`"),
        (lambda: any_model.integrate(None, "cat", 1), "pair is of type NoneType"),
        (lambda: any_model.edit(images, "cat", [["dog"]], control=control), "pair is of type list"),
        (lambda: any_model.generate(pair, None), "captions contains None: expected one text per sample"),
        (lambda: any_model.generate(pair, [7]), "captions contains 7: expected one text per sample"),
        (lambda: any_model.invert(images[0], [None], steps=2), "captions contains None"),
        (lambda: any_model.integrate(pair, "cat", 1, negative_captions=[7]), "negative_captions contains 7"),
        (lambda: any_model.integrate(pair, "cat", 1.5), r"position 1\.5 is not on a schedule of 2 steps"),
        (lambda: any_model.edit(pair, "cat", [[None]], control=control), "prompts contains None"),
        (lambda: any_model.edit(pair, "cat", [["dog"]], control=None), "control is of type NoneType"),
        (
            lambda: any_model.edit(pair, "cat", [["dog"]], control=control, steps=1.5),
            r"steps is 1\.5: expected a whole number from 1 to 2",
        ),
        (lambda: any_model.encode(images[0], posterior_seed="x"), "posterior_seed is 'x': expected a whole number"),
        (lambda: any_model.decode(pair), r"latents is Pair: expected a tensor \[N, \.\.\.\]"),
        (lambda: any_model.decode(torch.zeros(4, 16, 16)), r"latents is \[4, 16, 16\]"),
        (lambda: EDICT.from_pretrained(vae_dtype=cast(Any, "float16")), "vae_dtype is 'float16': expected float32 or"),
    ]
    for call, message in calls:
        with pytest.raises(ValueError, match=message):
            call()


def test_a_pair_is_indexed_as_a_sequence(model: EDICT, images: list[Image.Image]) -> None:
    pair = model.encode(images[:3])
    digests = pair.digests()
    assert isinstance(pair[0], Pair) and len(pair[0]) == 1 and pair[0].x.shape == (1, 4, 16, 16)
    assert [one.digests() for one in pair] == [[digest] for digest in digests]
    assert pair[-1].digests() == pair[np.int64(2)].digests() == digests[2:]
    assert pair[[2, 0]].digests() == [digests[2], digests[0]]
    assert pair[torch.tensor([True, False, True])].digests() == [digests[0], digests[2]]
    for outside in (3, -4):
        with pytest.raises(IndexError):
            pair[outside]
    assert model.decode(pair[1].to_float()[0])[0].size == (64, 64)


def test_reprs_are_one_short_line(model: EDICT, images: list[Image.Image]) -> None:
    pair = model.invert(images[:2], ["a", "b"], steps=3)
    assert repr(pair) == "Pair(2 of 4x16x16 on cpu, position 0 of 3, edict, guidance_scale=3)"
    assert repr(pair.schedule) == "Schedule(3 steps)"
    assert repr(model) == f"EDICT({str(model.backend.folder)!r}, StableDiffusion, torch.float32 on cpu)"


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("bfloat16", torch.bfloat16), ("torch.float16", torch.float16), (torch.float32, torch.float32)],
)
def test_dtype_and_device_by_name_or_object(dtype: Any, expected: torch.dtype) -> None:
    model = EDICT.from_pretrained(dtype=dtype, device=torch.device("cpu"))
    assert model.network.dtype == expected
    assert model.device == torch.device("cpu")


@pytest.mark.parametrize("dtype", ["float8", "int64", torch.int64, "nn", None])
def test_a_dtype_that_no_network_runs_in_is_an_error(dtype: Any) -> None:
    with pytest.raises(ValueError, match="expected float32, bfloat16, float16"):
        EDICT.from_pretrained(dtype=dtype)


def test_long_calls_show_a_progress_bar_that_can_be_disabled(
    model: EDICT, images: list[Image.Image], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each bar ends at its total, because the network calls are counted as they are made."""
    model.set_progress_bar_config(delay=0, leave=True)
    try:
        pair = model.invert(images[:3], ["a", "b", "c"], steps=3, batch_size=2, guidance_scale=1.0)
        model.generate(pair, ["d", "e", "f"])
        model.edit(pair, ["a", "b", "c"], [["d"], ["e"], ["f"]], control=Control())
        message = capsys.readouterr().err
        assert "invert: 100%" in message and "12/12" in message  # 2 batches of 3 steps of 2 calls
        assert "generate: 100%" in message
        assert "edit: 100%" in message and "18/18" in message
        model.set_progress_bar_config(disable=True)
        model.generate(pair, ["d", "e", "f"])
        assert capsys.readouterr().err == ""
    finally:
        model.set_progress_bar_config()


def test_a_pair_is_saved_and_loaded(model: EDICT, images: list[Image.Image], tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 3, "strength": 0.7, "sampler": "bdia", "guidance_interval": (0.1, 5.0)}
    pair = model.invert(images[:2], ["a", "b"], **settings)
    file = tmp_path / "pair.safetensors"
    pair.save(file)
    loaded = Pair.load(file)
    assert loaded == pair and repr(loaded) == repr(pair)
    assert (loaded.schedule, loaded.position, loaded.sampling, loaded.batch_size) == (
        pair.schedule,
        pair.position,
        pair.sampling,
        pair.batch_size,
    )
    latent = [model.generate(one, ["a", "b"], output_type="latent") for one in (pair, loaded)]
    assert latent[0].digests() == latent[1].digests()
    (tmp_path / "text").write_text("no tensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="there is no folder"):
        pair.save(tmp_path / "none" / "pair.safetensors")
    refused = {"text": "cannot be read as a pair", "none": "cannot be read", "other.safetensors": "not a pair"}
    for name, message in refused.items():
        with pytest.raises(ValueError, match=message):
            Pair.load(tmp_path / name)

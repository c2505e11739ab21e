"""Each script of examples/ with a small checkpoint, as `python examples/NAME.py ...`.

The scripts compare every integer of the round trip themselves.
"""

import argparse
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel, DiffusionPipeline
from diffusers.utils import export_to_gif
from PIL import Image
from safetensors.torch import save_file

from tests.edict.checkpoints import Folder
from tests.edict.pipeline_checkpoints import save

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
STEPS = ("--steps", 4)
WRITTEN = ("regenerated", "edited")

Run = Callable[..., None]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: list[Image.Image]) -> Iterator[Run]:
    """Run a script in a folder with the images image0.png to image4.png."""
    monkeypatch.chdir(tmp_path)
    for i, image in enumerate(images):
        image.save(f"image{i}.png")

    def run_script(name: str, *arguments: object) -> None:
        script = str(EXAMPLES / name)
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        runpy.run_path(script, run_name="__main__")

    before = torch.are_deterministic_algorithms_enabled()
    yield run_script
    torch.use_deterministic_algorithms(before)


def check_images() -> None:
    """Check the images that a script wrote: an edit differs from the regenerated image."""
    regenerated, edited = (Image.open(f"{name}.png") for name in WRITTEN)
    assert regenerated.size == edited.size == (16, 16)
    assert regenerated.tobytes() != edited.tobytes()


@pytest.mark.parametrize("kind", [None, "sdxl", "sd3"])
def test_round_trip(run: Run, folder: Folder, capsys: pytest.CaptureFixture[str], kind: str | None) -> None:
    """The script runs the shipped model without an argument."""
    with pytest.raises(SystemExit) as ended:
        run("round_trip.py", *([folder(kind)] if kind else []), *STEPS)
    assert not ended.value.code
    assert capsys.readouterr().out.startswith("0 of ")


@pytest.mark.parametrize("kind", ["sd1", "sdxl", "sd3"])
def test_edit(run: Run, folder: Folder, kind: str) -> None:
    run("edit.py", "image0.png", "a red heart", "dog face", "--model", folder(kind), *STEPS)
    check_images()


def test_controlnet(run: Run, folder: Folder) -> None:
    unet = DiffusionPipeline.from_pretrained(folder("sd1")).unet
    ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32)).save_pretrained("controlnet")
    given = ("--model", folder("sd1"), "--controlnet", "controlnet")
    run("controlnet.py", "image0.png", "image1.png", "a red heart", "dog face", *given, *STEPS)
    check_images()


def test_lora(run: Run, folder: Folder) -> None:
    torch.manual_seed(0)
    unet = DiffusionPipeline.from_pretrained(folder("sdxl")).unet
    weights = {}
    for name, module in unet.named_modules():
        if name.endswith(("to_q", "to_v")):
            weights[f"unet.{name}.lora_A.weight"] = torch.randn(2, module.in_features)
            weights[f"unet.{name}.lora_B.weight"] = torch.randn(module.out_features, 2)
    save_file(weights, "lora.safetensors")
    given = ("--model", folder("sdxl"), "--lora", "lora.safetensors")
    run("lora.py", "image0.png", "a red heart", "dog face", *given, *STEPS)
    check_images()


def test_video(run: Run, images: list[Image.Image]) -> None:
    save("wan", Path("wan"))
    export_to_gif([image.resize((32, 32)) for image in images], "video.gif")
    size = ("--frames", 5, "--height", 32, "--width", 32)
    run("video.py", "video.gif", "a red heart", "dog face", "--model", "wan", *size, *STEPS)
    for name in WRITTEN:
        with Image.open(f"{name}.gif") as written:
            assert written.size == (32, 32)
            assert written.n_frames == 5


def test_every_script_has_a_test() -> None:
    assert {f"test_{file.stem}" for file in SCRIPTS} <= globals().keys()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda file: file.stem)
def test_help_describes_the_script_and_every_argument(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsers: list[argparse.ArgumentParser] = []

    def parse_args(parser: argparse.ArgumentParser) -> None:
        parsers.append(parser)
        raise SystemExit

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    with pytest.raises(SystemExit):
        runpy.run_path(str(script), run_name="__main__")
    (parser,) = parsers
    assert parser.description
    assert f"python examples/{script.name}" in parser.description
    assert all(action.help for action in parser._actions)

"""`edict eval`: the metrics against independent computations, and the messages."""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import cosine_similarity, interpolate, max_pool2d
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer, ViTConfig, ViTModel

from jobs.demo import KINDS, SHARDS
from jobs.evaluation.bootstrap import mean_interval
from jobs.evaluation.edit_tables import COMPARED
from jobs.evaluation.errors import EvaluationError
from jobs.evaluation.lpips import load_lpips, squeezenet
from jobs.evaluation.methods import METHODS
from jobs.evaluation.metrics import Networks, PieBenchEntry, find_images, means, measure, read_image, read_mapping
from jobs.evaluation.networks import MEAN, STD, load_clip_similarity, load_structure_distance
from jobs.evaluation.truth import (
    ALIKE,
    CaptionedImage,
    ReferenceEdit,
    captioned_images,
    outside_error,
    reference_edits,
    split,
)
from tests.jobs.commands import run_edict

CPU = torch.device("cpu")
SIDE = 512
PART = ("psnr_unedit_part", "mse_unedit_part", "ssim_unedit_part")
SQUARE = [n for row in range(100, 200) for n in (row * SIDE + 100, 100)]  # 100 x 100 pixels


def entry(key: str = "0", runs: Sequence[int] = SQUARE, type: str = "1") -> PieBenchEntry:
    return PieBenchEntry(key, type, f"1_change_object_80/{key}.jpg", "a cat", "a dog", list(runs))


def noise(seed: int, side: int = SIDE) -> torch.Tensor:
    return torch.randint(0, 256, (3, side, side), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def write(file: Path, image: torch.Tensor) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file)


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """Three entries of PIE-Bench of two types. The first has an edited image named by id, the second by path."""
    mapping = {}
    for i, kind in enumerate("011"):
        path = f"{kind}_some/{i:012d}"
        mapping[f"{i:012d}"] = {
            "image_path": f"{path}.png",
            "original_prompt": "a [round] cake",
            "editing_prompt": "a [square] cake",
            "editing_type_id": kind,
            "mask": SQUARE,
        }
        write(tmp_path / "images" / f"{path}.png", noise(i))
    (tmp_path / "mapping_file.json").write_text(json.dumps(mapping))
    write(tmp_path / "edit/annotation_images/000000000000.png", noise(0))
    write(tmp_path / "edit/annotation_images/1_some/000000000001.png", 255 - noise(1))
    return tmp_path


def run(bench: Path, *more: object) -> Any:
    given = (bench / "edit", bench / "mapping_file.json", "--images", bench / "images")
    return run_edict("eval", "pie-bench", *given, *more)


# the unedited part


def test_metrics_of_identical_images() -> None:
    assert measure(noise(0), noise(0), entry(), Networks()) == {
        "psnr_unedit_part": float("inf"),
        "mse_unedit_part": 0,
        "ssim_unedit_part": 1,
    }


def test_changes_inside_the_mask_do_not_count() -> None:
    changed = noise(0)
    changed[:, 100:200, 100:200] = 255 - changed[:, 100:200, 100:200]
    assert measure(noise(0), changed, entry(), Networks())["mse_unedit_part"] == 0
    changed[:, 200, 100] = 255 - changed[:, 200, 100]  # the first row below it
    assert measure(noise(0), changed, entry(), Networks())["mse_unedit_part"] > 0


def test_errors_are_over_the_whole_image_with_a_black_mask() -> None:
    source, target = torch.zeros(3, SIDE, SIDE, dtype=torch.uint8), torch.full((3, SIDE, SIDE), 51, dtype=torch.uint8)
    got = measure(source, target, entry(), Networks())
    unedited = 510**2 - 100**2  # the border is inside the mask
    assert got["mse_unedit_part"] == pytest.approx(0.2**2 * unedited / SIDE**2, rel=1e-5)
    assert got["psnr_unedit_part"] == pytest.approx(-10 * np.log10(0.2**2 * unedited / SIDE**2), rel=1e-5)

    source, target = noise(0), noise(1)
    got = measure(source, target, entry(), Networks())
    a, b = (np.where(by_loop(SQUARE), 0, one.numpy().astype(float) / 255) for one in (source, target))
    mse = np.square(a - b).mean()
    assert got["mse_unedit_part"] == pytest.approx(mse, rel=1e-5)
    assert got["psnr_unedit_part"] == pytest.approx(10 * np.log10(1 / mse), rel=1e-5)
    assert 0 < got["ssim_unedit_part"] < 0.5


def by_loop(runs: Sequence[int]) -> np.ndarray:
    """Return a mask as PIE-Bench's own code makes it: pixel by pixel, with runs that end at the last pixel."""
    flat = [0] * SIDE**2
    for i in range(0, len(runs), 2):
        for j in range(min(runs[i + 1], SIDE**2 - runs[i])):
            flat[runs[i] + j] = 1
    mask = np.array(flat).reshape(SIDE, SIDE)
    for edge in (0, -1):
        mask[edge, :] = mask[:, edge] = 1
    return mask.astype(bool)


@pytest.mark.parametrize("runs", [SQUARE, [0, 1], [5, 5000, 4000, 5000], [SIDE**2 - 3, 99], [0, SIDE**2]])
def test_mask_equals_a_plain_loop(runs: list[int]) -> None:
    assert np.array_equal(entry(runs=runs).mask.numpy(), by_loop(runs))


def test_changes_of_the_border_do_not_count() -> None:
    changed = noise(0)
    for row, column in ((0, 7), (SIDE - 1, 7), (7, 0), (7, SIDE - 1)):
        changed[:, row, column] = 255 - changed[:, row, column]
    assert measure(noise(0), changed, entry(), Networks())["mse_unedit_part"] == 0


def test_metrics_are_nan_if_the_mask_covers_the_image() -> None:
    whole, part = entry("0", [0, SIDE**2]), entry("1")
    measured = {one.key: measure(noise(0), noise(1), one, Networks()) for one in (whole, part)}
    assert all(np.isnan(measured["0"][name]) for name in PART)
    (row,) = [row for row in means([whole, part], measured) if row["type"] == "all"]
    assert row["n"] == 2
    assert row["mse_unedit_part"] == {"mean": measured["1"]["mse_unedit_part"], "n": 1}


# the command


def test_pie_bench_by_type(bench: Path) -> None:
    said = run(bench, "--output", bench / "new" / "results.json")
    assert said.exit_code == 0, said.output
    assert "2 of 3 entries have an edited image" in said.stdout
    assert "entries without one: 000000000002" in said.stdout
    results = json.loads((bench / "new" / "results.json").read_text())
    assert {"hardware", "versions", "weights", "arguments"} < set(results)
    assert results["missing"] == ["000000000002"]
    rows = {row["type"]: row for row in results["rows"]}
    assert {kind: row["n"] for kind, row in rows.items()} == {"all": 2, "0": 1, "1": 1}
    assert rows["0"]["mse_unedit_part"]["mean"] == 0
    assert rows["0"]["psnr_unedit_part"]["mean"] is None  # infinite
    changed = rows["1"]["mse_unedit_part"]["mean"]
    assert changed == results["pictures"]["000000000001"]["mse_unedit_part"] > 0.1
    assert rows["all"]["mse_unedit_part"] == {"mean": pytest.approx(changed / 2), "n": 2}
    assert "0 random" in said.stdout and "1 change object" in said.stdout


def test_metrics_without_their_network_are_left_out(bench: Path) -> None:
    lines = run(bench).stdout.splitlines()
    for metric, option in (
        ("structure_distance", "--dino"),
        ("lpips_unedit_part", "--lpips"),
        ("clip_similarity_target_image_edit_part", "--clip"),
    ):
        (line,) = [line for line in lines if line.startswith("left out: ") and metric in line]
        assert option in line and "download" in line


def test_images_of_another_size_are_resized_and_counted(bench: Path) -> None:
    write(bench / "edit/annotation_images/000000000000.png", noise(0, 64))
    assert "1 images were resized to 512 x 512 pixels" in run(bench).stdout
    image, resized = read_image(bench / "edit/annotation_images/000000000000.png")
    assert image.shape == (3, SIDE, SIDE) and resized


def damage(bench: Path, what: str) -> None:
    edited, images = bench / "edit/annotation_images", bench / "images"
    mapping = json.loads((bench / "mapping_file.json").read_text())
    match what:
        case "no mapping":
            (bench / "mapping_file.json").unlink()
        case "no entry":
            (bench / "mapping_file.json").write_text("{}")
        case "no tree":
            shutil.move(bench / "edit", bench / "snow")
            shutil.move(bench / "snow", bench / "edit" / "snow")
        case "no images":
            shutil.rmtree(edited)
            edited.mkdir()
        case "two images":
            shutil.copy(edited / "000000000000.png", edited / "000000000000.jpg")
        case "no source":
            (images / "1_some/000000000001.png").unlink()
        case "not an image":
            (edited / "000000000000.png").write_text("not an image")
        case "not square":
            write(edited / "000000000000.png", noise(0)[:, :300])
        case _:
            del mapping["000000000001"][what]
            (bench / "mapping_file.json").write_text(json.dumps(mapping))


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("no tree", "has no folder annotation_images, which the folder of an edit has. Give one of its edits: snow"),
        ("no images", "has no image of any of the 3 entries"),
        ("two images", "entry '000000000000' has several images"),
        ("no source", "1_some/000000000001.png, the source of entry '000000000001', does not exist"),
        ("not an image", "000000000000.png: the file is not a readable image"),
        ("not square", "the image has 512 x 300 pixels"),
        ("no mapping", "mapping_file.json: cannot be read (No such file or directory)"),
        ("no entry", "mapping_file.json: has no entries"),
        ("mask", "mapping_file.json: entry '000000000001': mask is missing"),
        ("original_prompt", "mapping_file.json: entry '000000000001': original_prompt is missing or not text"),
    ],
)
def test_invalid_pie_bench_input_is_an_error(what: str, said: str, bench: Path) -> None:
    damage(bench, what)
    result = run(bench)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.output


def test_prompts_have_no_brackets(bench: Path) -> None:
    entries = read_mapping(bench / "mapping_file.json")
    assert (entries[0].source_prompt, entries[0].target_prompt) == ("a round cake", "a square cake")
    assert [path.name for path in find_images(bench / "edit", entries).values()] == [
        "000000000000.png",
        "000000000001.png",
    ]


def test_edited_images_are_found_in_nested_folders(bench: Path) -> None:
    """An export has such names if the shard was packed together with the folder of the sources."""
    entries, tree = read_mapping(bench / "mapping_file.json"), bench / "edit" / "annotation_images"
    before = find_images(bench / "edit", entries)
    tree.rename(bench / "edit" / "sources")
    tree.mkdir()
    (bench / "edit" / "sources").rename(tree / "sources")
    found = find_images(bench / "edit", entries)
    assert found == {key: tree / "sources" / path.relative_to(tree) for key, path in before.items()}
    assert found


# the networks, tiny ones with random weights


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("dino")
    config = ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=32, image_size=224, patch_size=32
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    words = ["<|startoftext|>", "<|endoftext|>", *(letter + end for letter in "acdgot" for end in ("", "</w>"))]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    tiny = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**tiny, "vocab_size": len(words), "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 1}
    config = CLIPConfig(text_config=text, vision_config={**tiny, "image_size": 32, "patch_size": 8}, projection_dim=12)
    model = CLIPModel(config)
    model.text_projection.weight.data.neg_()  # Otherwise these few weights give every image and text a negative cosine.
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def squeeze(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("lpips") / "squeezenet1_1-b8a52dc0.pth"
    torch.save({f"features.{name}": tensor for name, tensor in squeezenet().state_dict().items()}, file)
    return file


def test_structure_distance_compares_the_keys_of_the_last_layer(dino: Path) -> None:
    distance = load_structure_distance(dino, CPU)
    assert distance(noise(0), noise(0)) == 0

    model = ViTModel.from_pretrained(dino, add_pooling_layer=False).eval()
    last = model.layers[-1]

    def cosines(image: torch.Tensor) -> torch.Tensor:
        small = interpolate(image[None].float(), (224, 224), mode="bilinear", antialias=False)
        pixels = (small - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        before = model(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]
        keys = last.attention.k_proj(last.layernorm_before(before))[0]
        assert keys.shape == (1 + 49, 24)
        return cosine_similarity(keys[:, None], keys[None], dim=-1)

    with torch.inference_mode():
        expected = (cosines(noise(0)) - cosines(noise(1))).square().mean()
    assert distance(noise(0), noise(1)) == pytest.approx(float(expected), rel=1e-4)
    assert expected > 0


def test_clip_similarity_is_the_cosine_of_the_embeddings(clip: Path) -> None:
    similarity = load_clip_similarity(clip, CPU)
    model = CLIPModel.from_pretrained(clip).eval()
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    found = []
    for seed, text in ((0, "a cat"), (1, "a dog"), (2, "a cat got a dog to a cat to a dog")):
        small = Image.fromarray(noise(seed).permute(1, 2, 0).numpy()).resize((32, 32), Image.Resampling.BICUBIC)
        pixels = (torch.from_numpy(np.array(small)) / 255 - torch.tensor(mean)) / torch.tensor(std)
        tokens = CLIPTokenizer.from_pretrained(clip)(text).input_ids
        tokens = tokens if len(tokens) <= 8 else [*tokens[:7], tokens[-1]]
        with torch.inference_mode():
            seen = model.vision_model(pixel_values=pixels.permute(2, 0, 1)[None]).pooler_output
            read = model.text_model(input_ids=torch.tensor([tokens])).pooler_output
            cosine = cosine_similarity(model.visual_projection(seen), model.text_projection(read))
        assert similarity(noise(seed), text) == pytest.approx(max(0, 100 * float(cosine)), abs=1e-3)
        found.append(float(cosine))
    assert max(found) > 0


def test_lpips_equals_its_definition(squeeze: Path) -> None:
    distance = load_lpips(squeeze.parent, CPU)
    a, b = (noise(seed, 64) / 127.5 - 1 for seed in (0, 1))
    assert distance(a, a) == 0

    weights = torch.load(squeeze)
    heads = torch.load(
        str(files("torchmetrics") / "functional/image/lpips_models/squeeze.pth"), map_location="cpu", weights_only=True
    )

    def convolve(x: torch.Tensor, name: str, **how: int) -> torch.Tensor:
        return nn.functional.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], **how).relu()

    def features(image: torch.Tensor) -> list[torch.Tensor]:
        x = (image - torch.tensor((-0.030, -0.088, -0.188))[:, None, None]) / torch.tensor((0.458, 0.448, 0.450))[
            :, None, None
        ]
        taken = [x := convolve(x[None], "features.0", stride=2)]
        for layer in range(2, 13):
            if layer in (2, 5, 8):
                x = max_pool2d(x, 3, 2, ceil_mode=True)
                continue
            narrow = convolve(x, f"features.{layer}.squeeze")
            x = torch.cat(
                [
                    convolve(narrow, f"features.{layer}.expand1x1"),
                    convolve(narrow, f"features.{layer}.expand3x3", padding=1),
                ],
                1,
            )
            if layer in (4, 7, 9, 10, 11, 12):
                taken.append(x)
        return taken

    expected = 0.0
    for i, (one, other) in enumerate(zip(features(a), features(b), strict=True)):
        one, other = (x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt() for x in (one, other))
        expected += float(((one - other).square() * heads[f"lin{i}.model.1.weight"]).sum(1).mean())
    assert distance(a, b) == pytest.approx(expected, rel=1e-4)


def test_all_metrics_of_an_edit(bench: Path, dino: Path, clip: Path, squeeze: Path) -> None:
    said = run(bench, "--dino", dino, "--clip", clip, "--lpips", squeeze.parent, "--output", bench / "results.json")
    assert said.exit_code == 0, said.output
    assert "left out" not in said.stdout
    assert "not comparable with published figures: the network of --dino has" in said.stdout
    results = json.loads((bench / "results.json").read_text())
    weights = {"dino": dino / "model.safetensors", "clip": clip / "model.safetensors", "lpips": squeeze}
    assert results["weights"] == {name: sha256(file.read_bytes()).hexdigest() for name, file in weights.items()}
    same, changed = (results["pictures"][f"{i:012d}"] for i in (0, 1))
    assert same["structure_distance"] == same["lpips_unedit_part"] == 0
    assert changed["structure_distance"] > 0 and changed["lpips_unedit_part"] > 0
    assert list(same) == list(changed) and len(same) == 8

    similarity = load_clip_similarity(clip, CPU)
    edit = read_image(bench / "edit/annotation_images/1_some/000000000001.png")[0]
    assert changed["clip_similarity_target_image"] == similarity(edit, "a square cake")
    assert changed["clip_similarity_source_image"] == similarity(noise(1), "a round cake")
    masked = edit * torch.from_numpy(by_loop(SQUARE))
    assert changed["clip_similarity_target_image_edit_part"] == similarity(masked, "a square cake")


def test_a_folder_with_another_network_is_an_error(bench: Path, dino: Path, clip: Path, squeeze: Path) -> None:
    for given, said in (
        (("--dino", bench), "has no config.json. Give the folder of a model"),
        (("--dino", clip), "the model is a 'clip'. Give a 'vit' model"),
        (("--clip", dino), "the model is a 'vit'. Give a 'clip' model"),
        (("--lpips", bench), "does not exist. Download"),
        (("--lpips", dino / "model.safetensors"), "is not torchvision's SqueezeNet 1.1"),
    ):
        result = run(bench, *given)
        assert result.exit_code == 2
        assert said in result.stderr and given[0] in result.stderr
        assert "Traceback" not in result.output


def test_a_network_with_missing_weights_is_an_error(dino: Path, tmp_path: Path) -> None:
    config = ViTConfig.from_pretrained(dino)
    config.num_hidden_layers = 1
    ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    shutil.copy(dino / "config.json", tmp_path)
    with pytest.raises(EvaluationError, match=r"weights are missing, such as layers\.1\."):
        load_structure_distance(tmp_path, CPU)


# on the default model


def plain(colour: int) -> Image.Image:
    return Image.new("RGB", (64, 64), (colour,) * 3)


def test_outside_error_is_over_pixels_where_source_and_truth_agree() -> None:
    source, target, made = plain(100), plain(100), plain(100)
    target.paste((200, 200, 200), (0, 0, 32, 64))  # the region that should change
    target.paste((100 + ALIKE, 100, 100), (32, 0, 33, 1))  # within the tolerance
    made.paste((151, 151, 151), (32, 32, 64, 64))  # half of the rest, changed by 0.4
    edit = ReferenceEdit("colour", CaptionedImage(source, "a"), CaptionedImage(target, "b"), "a / b")
    apart = (ALIKE / 127.5) ** 2 / (32 * 64 * 3)
    assert outside_error([made, target], [edit, edit]) == pytest.approx([0.4**2 / 2 + apart, 0])
    nowhere = ReferenceEdit("background", CaptionedImage(plain(0), "a"), CaptionedImage(plain(255), "b"), "a / b")
    assert np.isnan(outside_error([plain(0)], [nowhere])).all()


def test_reference_edits_of_the_shipped_images() -> None:
    assert len(captioned_images([str(SHARDS / "demo-00000.tar")], 5)) == 5
    assert {edit.kind for edit in reference_edits([str(SHARDS / "demo-00000.tar")])} >= {
        "colour",
        "background",
        "style",
    }


def test_tuning_edits_are_not_tested() -> None:
    edits = reference_edits()
    tuning, test = split(edits, 6)
    assert Counter(edit.kind for edit in tuning) == dict.fromkeys(KINDS, 6)
    assert {edit.drawings for edit in tuning}.isdisjoint(edit.drawings for edit in test)
    assert len(test) >= 500 and {edit.kind for edit in test} == set(KINDS)
    kinds = {(edit.drawings, edit.kind) for edit in edits if edit.kind != "background"}
    assert len(kinds) == len({edit.drawings for edit in edits}) == 192
    assert split(edits, 0) == ([], edits)


def test_mean_interval_resamples_groups_together() -> None:
    """Two groups of equal values give the interval of two values, which is wider than that of four."""
    values = np.array([1.0, 1.0, 5.0, 5.0])
    groups = np.array(["a", "a", "b", "b"])
    assert mean_interval(values, groups) == (3.0, 1.0, 5.0)  # Half of the resamples have only one group.
    assert mean_interval(np.array([1.0, 5.0])) == (3.0, 1.0, 5.0)
    ungrouped = mean_interval(np.repeat(values, 8))
    assert 1 < ungrouped[1] < 3 < ungrouped[2] < 5
    assert mean_interval(np.array([1.0, np.nan, 3.0]), np.array(["a", "a", "b"])) == (2.0, 1.0, 3.0)
    assert np.isnan(mean_interval(np.array([np.nan]))).all()


def test_table1(tmp_path: Path) -> None:
    file = tmp_path / "results" / "table1.json"
    shard = SHARDS / "demo-00001.tar"
    said = run_edict("eval", "table1", "--input", shard, "--count", 2, "--steps", "1,2", "--output", file)
    assert said.exit_code == 0, said.output
    results = json.loads(file.read_text())
    assert {"hardware", "versions", "weights", "arguments"} < set(results)
    assert results["arguments"] | {"threads": 0} == {
        "batch": 16,
        "threads": 0,
        "count": 2,
        "steps": [1, 2],
        "input": str(shard),
    }
    floor, _, *rows = results["rows"]
    assert [(row["method"], row["prompt"], row["steps"]) for row in rows] == [
        (method, prompt, steps)
        for method in ("EDICT", "DDIM", "DDIM Euler")
        for prompt in ("unconditional", "conditional")
        for steps in (1, 2)
    ]
    for row in rows:
        assert row["n"] == 2 and f"| {row['mse']:.6f} |" in said.stdout
        if row["method"] == "EDICT":
            assert row["integers_differing"] == row["left_the_lattice"] == 0
            assert row["mse"] == floor["mse"] > 0


def test_edits(tmp_path: Path) -> None:
    file, sheet = tmp_path / "edits.json", tmp_path / "edits.png"
    options = ("--per-kind", 1, "--tune", 0, "--steps", 2, "--columns", 1)
    settings = [word for name in ("edict", "ddim", "control", "sdedit") for word in (f"--{name}", 1, 1, 1.5)]
    said = run_edict("eval", "edits", *options, *settings, "--output", file, "--sheet", sheet)
    assert said.exit_code == 0, said.output
    results = json.loads(file.read_text())
    assert results["settings"] == {name: {"strength": 1.0, "inverted_at": 1.0, "edited_at": 1.5} for name in METHODS}
    *kinds, whole = results["rows"]
    assert [row["kind"] for row in kinds] == ["colour", "skin tone", "person", "object", "background", "style"]
    assert whole["kind"] == "all" and whole["n"] == 6
    for row in results["rows"]:
        assert set(row["nearer"]) == set(row["failed"]) == set(METHODS)
        for name in COMPARED:
            mean, low, high = row[name]
            assert low <= mean <= high and f"{mean:.4f} [{low:.4f}, {high:.4f}]" in said.stdout
    assert all(0 <= whole["outside"][name][0] < whole[name][0] for name in METHODS)
    assert whole["source"][0] == pytest.approx(np.mean([row["source"][0] for row in kinds]))
    for name in METHODS:
        assert f"{name}: strength 1, guidance scale 1 for the inversion and 1.5 for the edit (as given)" in said.stdout
    with Image.open(sheet) as image:
        assert image.size == (84 + 6 * 128, 48 + (3 + len(METHODS)) * 128)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("edits", "--steps", 1), "1 * 0.8 = 0.8 executes no step"),
        (("edits", "--steps", 2), "attention control has no effect at strength 0.8 with 2 steps"),
        (("edits", "--edict", 1.5, 1, 1), "strength is 1.5. Give more than 0 and at most 1"),
        (("edits", "--grid", "--tune", 0), "--grid needs tuning edits"),
        (("edits", "--tune", 1000), "leaves no edits to test"),
        (("table1", "--steps", "1,5000"), "steps is 5000, and the checkpoint was trained with 1000"),
        (("table1", "--steps", "few"), "'few' is not a list of numbers"),
        (("table1", "--steps", 1, "--input", "absent.tar"), "absent.tar"),
        (("table1", "--steps", 1, "--output", "/dev/null/file.json"), "the folder cannot be made"),
    ],
)
def test_invalid_options_are_errors(arguments: tuple[object, ...], said: str) -> None:
    result = run_edict("eval", *arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.replace("│", " ").split())
    assert "Traceback" not in result.output

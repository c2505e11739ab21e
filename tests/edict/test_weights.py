"""The digest of a model changes with the weights, in every file from which weights are read."""

import json
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import huggingface_hub.constants
import pytest
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from edict import EDICT, ModelError
from edict.checkpoint import LoRA, locate
from edict.model_files import weights_digest
from tests.edict.checkpoints import Folder
from tests.edict.test_models import lora_file

UNET, TEXT = "unet/diffusion_pytorch_model", "text_encoder/model"
COMMIT = "0123456789" * 4


def split(folder: Path, stem: str, shards: str, index: str) -> Path:
    """Put a component's weights into two files, named by `shards`, and an index. Return one of these files."""
    part = folder / stem.partition("/")[0]
    whole = folder / f"{stem}.safetensors"
    state = load_file(whole)
    whole.unlink()
    names, weight_map = [shards.format(i) for i in (1, 2)], {}
    for name, keys in zip(names, (sorted(state)[::2], sorted(state)[1::2]), strict=True):
        (part / name).parent.mkdir(exist_ok=True)
        save_file({key: state[key] for key in keys}, part / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(keys, name)
    (part / index).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return part / names[0]


def named_in_config(folder: Path, name: str) -> None:
    config = folder / "text_encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"transformers_weights": name}))


def in_a_named_file(folder: Path) -> Path:
    named_in_config(folder, "other.safetensors")
    return (folder / f"{TEXT}.safetensors").rename(folder / "text_encoder" / "other.safetensors")


def in_a_named_index(folder: Path) -> Path:
    named_in_config(folder, "other.safetensors.index.json")
    return split(folder, TEXT, "part{}.safetensors", "other.safetensors.index.json")


def as_distributed(folder: Path) -> Path:
    """Write an index as torch.distributed.checkpoint does. Then transformers reads every file in the folder."""
    file = folder / "text_encoder" / "shard-00001-model-00001-of-00001.safetensors"
    return (folder / f"{TEXT}.safetensors").rename(file)


LAYOUTS: dict[str, tuple[Callable[[Path], Path], str | None]] = {
    "whole": (lambda folder: folder / f"{UNET}.safetensors", None),
    "shards": (
        partial(
            split,
            stem=UNET,
            shards="diffusion_pytorch_model-{:05d}-of-00002.safetensors",
            index="diffusion_pytorch_model.safetensors.index.json",
        ),
        None,
    ),
    "a variant's shards": (
        partial(
            split,
            stem=UNET,
            shards="diffusion_pytorch_model.fp16-{:05d}-of-00002.safetensors",
            index="diffusion_pytorch_model.safetensors.index.fp16.json",
        ),
        "fp16",
    ),
    "a variant's shards, older names": (
        partial(
            split,
            stem=UNET,
            shards="diffusion_pytorch_model-{:05d}-of-00002.fp16.safetensors",
            index="diffusion_pytorch_model.safetensors.index.fp16.json",
        ),
        "fp16",
    ),
    "a variant's older index": (
        partial(
            split,
            stem=UNET,
            shards="diffusion_pytorch_model-{:05d}-of-00002.fp16.safetensors",
            index="diffusion_pytorch_model.safetensors.fp16.index.json",
        ),
        "fp16",
    ),
    "other files": (
        partial(
            split,
            stem=UNET,
            shards="part{}.safetensors",
            index="diffusion_pytorch_model.safetensors.index.json",
        ),
        None,
    ),
    "a text encoder's files in a folder": (
        partial(split, stem=TEXT, shards="x/part{}.safetensors", index="model.safetensors.index.json"),
        None,
    ),
    "a text encoder's named file": (in_a_named_file, None),
    "a text encoder's named index": (in_a_named_index, None),
    "a text encoder's distributed shards": (as_distributed, None),
}


def sums(model: EDICT) -> list[float]:
    return [
        float(weight.double().abs().sum())
        for part in (model.network, model.backend.text_encoder)
        for weight in part.parameters()
    ]


@pytest.fixture(scope="module")
def plain(folder: Folder) -> list[float]:
    return sums(EDICT.from_pretrained(folder("sd1")))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_change_of_weights_changes_the_digest(
    folder: Folder, plain: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    monkeypatch.chdir(tmp_path)
    arrange, variant = LAYOUTS[layout]
    copy = Path(shutil.copytree(folder("sd1"), "copy"))  # For a path with a dot, diffusers would look for other names.
    file = arrange(copy)
    digest = weights_digest(copy, variant)
    assert sums(EDICT.from_pretrained(copy, variant=variant)) == plain
    save_file({key: value * 1.5 for key, value in load_file(file).items()}, file, metadata={"format": "pt"})
    assert sums(EDICT.from_pretrained(copy, variant=variant)) != plain
    assert weights_digest(copy, variant) != digest


def earlier(folder: Path, *patterns: str) -> str:
    """Return the digest that earlier versions computed from files with these names."""
    configurations = ("scheduler/*.json", "tokenizer/*", "*/config.json")
    digest = sha256()
    for file in sorted({file for pattern in (*configurations, *patterns) for file in folder.glob(pattern)}):
        content = sha256(file.read_bytes()).hexdigest()
        digest.update(f"{file.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


@pytest.mark.parametrize(
    ("layout", "files"),
    [
        ("whole", "*/*.safetensors"),
        ("shards", "unet/*"),
        ("a variant's shards", "unet/*"),
    ],
)
def test_usual_layouts_keep_their_digest(folder: Folder, tmp_path: Path, layout: str, files: str) -> None:
    """Otherwise the stores of earlier versions would be refused."""
    copy = Path(shutil.copytree(folder("sd1"), tmp_path / "copy"))
    arrange, variant = LAYOUTS[layout]
    arrange(copy)
    assert weights_digest(copy, variant) == earlier(copy, files, "vae/*", "text_encoder/*")


def test_the_digest_leaves_out_an_older_index_of_usual_names(folder: Folder, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder("sd1"), tmp_path / "copy"))
    index = "diffusion_pytorch_model.safetensors.fp16.index.json"
    split(copy, UNET, "diffusion_pytorch_model.fp16-{:05d}-of-00002.safetensors", index)
    assert weights_digest(copy, "fp16") == earlier(copy, f"{UNET}.fp16-*", "vae/*", "text_encoder/*")
    content = json.loads((copy / "unet" / index).read_text())
    (copy / "unet" / index).write_text(json.dumps(content | {"weight_map": {"x": "other.safetensors"}}))
    assert weights_digest(copy, "fp16") != earlier(copy, f"{UNET}.fp16-*", "vae/*", "text_encoder/*")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": 1}', '{"weight_map": {"a": 1}}'])
def test_a_damaged_index_is_named(folder: Folder, tmp_path: Path, content: str) -> None:
    copy = Path(shutil.copytree(folder("sd1"), tmp_path / "copy"))
    index = copy / f"{UNET}.safetensors.index.json"
    index.write_text(content)
    with pytest.raises(ModelError, match="Download the model again") as caught:
        weights_digest(copy)
    assert str(caught.value).startswith(str(index)) and "\n" not in str(caught.value)


def test_the_digest_has_a_peft_adapter_that_transformers_would_load(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers loads the adapter if the package peft is installed, and ignores it otherwise."""
    copy = Path(shutil.copytree(folder("sd1"), tmp_path / "copy"))
    model, digests = EDICT.from_pretrained(copy), {weights_digest(copy)}
    encoder, weights = model.backend.text_encoder, sums(model)
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(encoder, config).save_pretrained(copy / "text_encoder")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "peft", None)
        assert weights_digest(copy) in digests
    digests.add(weights_digest(copy))
    assert sums(EDICT.from_pretrained(copy)) != weights
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (copy / "text_encoder" / name).write_bytes(b"{} ")
        digests.add(weights_digest(copy))
    assert len(digests) == 4


def test_a_lora_depends_only_on_its_file(folder: Folder, tmp_path: Path) -> None:
    """Its alpha is metadata of the file; an adapter_config.json next to the file is not read."""
    file = tmp_path / "lora.safetensors"
    lora_file(EDICT.from_pretrained(folder("sd1")), file, "peft")
    state = load_file(file)
    found = {}
    for alpha in (2, 8):
        noted = json.dumps({"unet.lora_alpha": alpha, "unet.r": 2})
        save_file(state, file, metadata={"format": "pt", "lora_adapter_metadata": noted})
        found[weights_digest(folder("sd1"), lora=LoRA(file))] = sums(EDICT.from_pretrained(folder("sd1"), lora=file))
    assert len(found) == 2
    one, other = found.values()
    assert one != other
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 64, "r": 2, "peft_type": "LORA"}))
    assert sums(EDICT.from_pretrained(folder("sd1"), lora=file)) == other


class Hub(BaseHTTPRequestHandler):
    """A hub with one repository: it sends huggingface_hub the list of files of a commit, and each file."""

    def __init__(self, root: Path, *given: object) -> None:
        self.root = root
        super().__init__(*given)  # type: ignore[arg-type]

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)

    def _answer(self, with_body: bool) -> None:
        path = unquote(self.path.partition("?")[0])
        names = [file.relative_to(self.root).as_posix() for file in self.root.rglob("*") if file.is_file()]
        if path.startswith("/api/models/someone/small/tree/"):
            sizes = {name: (self.root / name).stat().st_size for name in names}
            tree = [{"type": "file", "path": name, "size": size, "oid": COMMIT} for name, size in sizes.items()]
            body = json.dumps(tree).encode()
        elif path.startswith("/api/models/someone/small"):
            siblings = [{"rfilename": name} for name in names]
            body = json.dumps({"id": "someone/small", "sha": COMMIT, "siblings": siblings}).encode()
        else:
            body = (self.root / path.partition(f"/resolve/{COMMIT}/")[2]).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if with_body:
            self.wfile.write(body)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Serve the repository someone/small from a hub on this machine. Return its files."""
    root = tmp_path / "repository"
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, root))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield root
    server.shutdown()


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if "distributed" not in name])
def test_a_download_has_all_weights(folder: Folder, hub: Path, layout: str) -> None:
    arrange, variant = LAYOUTS[layout]
    shutil.copytree(folder("sd1"), hub)
    arrange(hub)
    (hub / "unet" / "unused.safetensors").write_bytes(b"not needed")
    found = locate("someone/small", variant=variant)
    assert found.name == COMMIT and not (found / "unet" / "unused.safetensors").exists()
    assert weights_digest(found, variant) == weights_digest(hub, variant)

"""Checkpoints that `edict plan` rejects with one line, and layouts that load: changed copies of small checkpoints."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderTiny,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    T5EncoderModel,
    T5ForConditionalGeneration,
)

from tests.corpus.case import Case
from tests.edict.checkpoints import Folder

Checkpoint = Case[Callable[[Folder, Path], object]]
"""`build` gets the small checkpoints, and writes the changed one to a path. `message` is the whole line."""

REFUSED = ("error ModelError",)
UNET, VAE = "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 3438167536\n"

Change = Callable[[Path], object]


def case(name: str, description: str, kind: str, change: Change, message: str = "", **model: object) -> Checkpoint:
    """Return a changed checkpoint of this kind, which loads if `message` is empty. `model` has fields of the spec."""

    def build(folder: Folder, path: Path) -> dict[str, object]:
        shutil.copytree(folder(kind), path)
        change(path)
        return model

    return Case(name, description, build, REFUSED if message else (f"model {kind}",), message)


def weights(file: str, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Change:
    """Change the weights of one file."""
    return lambda path: save_file(change(load_file(path / file)), path / file, {"format": "pt"})


def prefixed(prefix: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda state: {prefix + key: value for key, value in state.items()}


def without(name: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda state: {key: value for key, value in state.items() if key != name}


def with_one(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return state | {"loss.weight": torch.zeros(1)}


def old_text(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the weights as transformers 4 saved a text encoder, with positions as before 4.31."""
    names = {f"text_model.{key.removeprefix('text_model.')}": value for key, value in state.items()}
    return names | {"text_model.embeddings.position_ids": torch.arange(24)[None]}


def cut(path: Path) -> None:
    (path / UNET).write_bytes((path / UNET).read_bytes()[:-1000])


def settings(file: str, **fields: object) -> Change:
    """Change fields of one JSON file."""

    def change(path: Path) -> None:
        content = json.loads((path / file).read_text()) | fields
        (path / file).write_text(json.dumps(content, indent=2))

    return change


def removed(name: str) -> Change:
    return lambda path: shutil.rmtree(path / name) if (path / name).is_dir() else (path / name).unlink()


def renamed(old: str, new: str) -> Change:
    return lambda path: (path / old).rename(path / new)


def tiny_autoencoder(path: Path) -> None:
    shutil.rmtree(path / "vae")
    AutoencoderTiny().save_pretrained(path / "vae")
    settings("model_index.json", vae=["diffusers", "AutoencoderTiny"])(path)


def pickled(path: Path) -> None:
    torch.save(load_file(path / UNET), (path / UNET).with_suffix(".bin"))
    (path / UNET).unlink()


def sharded(path: Path) -> None:
    unet = UNet2DConditionModel.from_pretrained(path / "unet")
    (path / UNET).unlink()
    unet.save_pretrained(path / "unet", max_shard_size="20KB")


def shards_in_a_folder(path: Path) -> None:
    sharded(path)
    index = path / UNET.replace(".safetensors", ".safetensors.index.json")
    content = json.loads(index.read_text())
    (path / "unet" / "x").mkdir()
    for name in set(content["weight_map"].values()):
        (path / "unet" / name).rename(path / "unet" / "x" / name)
    content["weight_map"] = {key: f"x/{name}" for key, name in content["weight_map"].items()}
    index.write_text(json.dumps(content))


def shard_missing(path: Path) -> None:
    sharded(path)
    next((path / "unet").glob("*-00001-of-*")).unlink()


def another_unet(**fields: object) -> Change:
    """Replace the UNet by one of another configuration, with its weights."""

    def change(path: Path) -> None:
        config = json.loads((path / "unet/config.json").read_text()) | fields
        torch.manual_seed(0)
        UNet2DConditionModel.from_config(config).save_pretrained(path / "unet")

    return change


def pixels_with_classes(path: Path) -> None:
    config = json.loads((path / "unet/config.json").read_text()) | {"num_class_embeds": 3}
    UNet2DModel.from_config(config).save_pretrained(path / "unet")


def fill_network(path: Path) -> None:
    config = json.loads((path / "transformer/config.json").read_text()) | {"in_channels": 96, "out_channels": 16}
    FluxTransformer2DModel.from_config(config).save_pretrained(path / "transformer")


def scheduler(another: Any) -> Change:
    return lambda path: another.save_pretrained(path / "scheduler")


def old_pixart(path: Path) -> None:
    settings("model_index.json", transformer=["diffusers", "Transformer2DModel"])(path)
    settings("transformer/config.json", _class_name="Transformer2DModel", norm_type="ada_norm_single")(path)


def old_attention(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the weights as in the autoencoder of Stable Diffusion 1.5 on the hub."""
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for key, value in state.items():
        for new, old in names.items():
            if "mid_block.attentions" in key:
                key = key.replace(f".{new}.", f".{old}.")
        renamed[key] = value
    return renamed


def whole_clip(path: Path) -> None:
    """Save the text encoder as in openai/clip-vit-large-patch14: a CLIPModel with its image encoder."""
    text = CLIPTextModel.from_pretrained(path / "text_encoder")
    vision = CLIPVisionConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
                              image_size=8, patch_size=4)  # fmt: skip
    shutil.rmtree(path / "text_encoder")
    clip = CLIPModel(CLIPConfig(text_config=text.config.to_dict(), vision_config=vision.to_dict(), projection_dim=4))
    clip.text_model.load_state_dict(text.state_dict())
    clip.save_pretrained(path / "text_encoder")


def whole_t5(path: Path) -> None:
    """Save the text encoder as in google/t5-v1_1-xxl, with the decoder."""
    encoder = T5EncoderModel.from_pretrained(path / "text_encoder")
    shutil.rmtree(path / "text_encoder")
    t5 = T5ForConditionalGeneration(encoder.config)
    t5.encoder.load_state_dict(encoder.encoder.state_dict())
    t5.shared.load_state_dict(encoder.shared.state_dict())
    t5.save_pretrained(path / "text_encoder")


def fp16(path: Path) -> None:
    """Add files of the variant to the plain ones."""
    for file in (UNET, VAE, TEXT):
        state = {key: value.half() for key, value in load_file(path / file).items()}
        save_file(state, (path / file).with_suffix(".fp16.safetensors"), {"format": "pt"})


def fp16_only(path: Path) -> None:
    fp16(path)
    for file in (UNET, VAE, TEXT):
        (path / file).unlink()


def flat(path: Path) -> None:
    """Move all files out of the folders, as in google/ddpm-cifar10-32."""
    for part in ("unet", "scheduler"):
        for file in (path / part).iterdir():
            file.rename(path / file.name)
        (path / part).rmdir()


def several_vectors(path: Path) -> None:
    """Add a textual inversion of three vectors, as load_textual_inversion of diffusers does."""
    pipeline = StableDiffusionPipeline.from_pretrained(path, safety_checker=None)
    torch.manual_seed(0)
    width = pipeline.text_encoder.config.hidden_size
    pipeline.load_textual_inversion({"<toy>": torch.randn(3, width)}, token="<toy>")
    pipeline.tokenizer.save_pretrained(path / "tokenizer")
    pipeline.text_encoder.save_pretrained(path / "text_encoder")


def tokens_added(path: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(path / "tokenizer")
    tokenizer.add_tokens(["<toy>"])
    tokenizer.save_pretrained(path / "tokenizer")


def single_file(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()
    save_file({"model.diffusion_model.x": torch.zeros(1)}, path / "v1-5.safetensors")


def kohya(**more: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return a LoRA of rank 2 for one layer of the UNet, in kohya's names, with more tensors of that layer."""
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    weights = {"lora_down.weight": torch.ones(2, 8), "lora_up.weight": torch.ones(8, 2), "alpha": torch.tensor(1.0)}
    return {f"{layer}.{name}": tensor for name, tensor in (weights | more).items()}


def with_lora(name: str, description: str, state: dict[str, torch.Tensor], message: str = "") -> Checkpoint:
    def build(folder: Folder, path: Path) -> dict[str, Any]:
        shutil.copytree(folder("sd1"), path)
        save_file(state, path.with_name("lora.safetensors"))
        return {"lora": {"path": "./lora.safetensors"}}

    return Case(name, description, build, REFUSED if message else ("model sd1",), message)


STATISTICS = settings("vae/config.json", latents_mean=[0.5, -1.0, 0.25, 2.0], latents_std=[4.0, 5.0, 6.0, 7.0])
FLOW = FlowMatchEulerDiscreteScheduler(shift=3.0)
DPM_FLOW = DPMSolverMultistepScheduler(
    prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, num_train_timesteps=1000
)

REFUSALS: list[Checkpoint] = [
    case(
        "weights-compiled",
        "weights saved from a compiled network",
        "sd1",
        weights(UNET, prefixed("_orig_mod.")),
        (
            "model m: unet has other weights than its class: 208 weights (conv_in.bias, ...) are missing, "
            "and 208 weights (_orig_mod.conv_in.bias, ...) are unknown to UNet2DConditionModel. Save it "
            "again without the prefix '_orig_mod.', which torch.compile adds"
        ),
    ),
    case(
        "weights-parallel",
        "weights saved from DistributedDataParallel",
        "sd1",
        weights(TEXT, prefixed("module.")),
        (
            "model m: text_encoder has other weights than its class: 36 weights "
            "(embeddings.position_embedding.weight, ...) are missing, and 36 weights "
            "(module.embeddings.position_embedding.weight, ...) are unknown to CLIPTextModel. Save it again "
            "without the prefix 'module.', which DistributedDataParallel adds"
        ),
    ),
    case(
        "weights-one",
        "a weight that is missing",
        "sd1",
        weights(UNET, without("conv_in.weight")),
        (
            "model m: unet has other weights than its class: conv_in.weight is missing. Use the weights and "
            "the config.json of one model"
        ),
    ),
    case(
        "weights-more",
        "a weight that the class does not have",
        "sd1",
        weights(VAE, with_one),
        (
            "model m: vae has other weights than its class: loss.weight is unknown to AutoencoderKL. Use the"
            " weights and the config.json of one model"
        ),
    ),
    case(
        "weights-shape",
        "a config.json of another size",
        "sd1",
        settings("vae/config.json", block_out_channels=[4, 16]),
        (
            "model m: vae does not fit its config.json: encoder.down_blocks.1.resnets.0.conv1.weight has the "
            "shape [8, 4, 3, 3] in the file, but [16, 4, 3, 3] by the configuration. Use the config.json that "
            "belongs to the weights"
        ),
    ),
    case(
        "weights-shard",
        "weights without one of their shards",
        "sd1",
        shard_missing,
        ("model m: unet/diffusion_pytorch_model-00001-of-00013.safetensors is missing. Download the model again"),
    ),
    case(
        "weights-shards-apart",
        "shards in another folder than their index",
        "sd1",
        shards_in_a_folder,
        (
            "model m: the index of unet names unet/x/diffusion_pytorch_model-00001-of-00013.safetensors, and diffusers "
            "reads shards only from the folder of their index. Move them there, and correct the index"
        ),
    ),
    case(
        "weights-lfs",
        "a Git LFS pointer",
        "sd1",
        lambda path: (path / UNET).write_text(POINTER),
        ("m/unet/diffusion_pytorch_model.safetensors is a Git LFS pointer and not the file. Run: git lfs pull"),
    ),
    case(
        "weights-cut",
        "weights that are cut",
        "sd1",
        cut,
        (
            "m/unet/diffusion_pytorch_model.safetensors cannot be read (Error while deserializing header: "
            "incomplete metadata, file not fully covered). Download it again"
        ),
    ),
    case(
        "weights-none",
        "a network without weights",
        "sd1",
        removed(UNET),
        (
            "model m: unet has no weights (unet/diffusion_pytorch_model.safetensors). Download it again; if the "
            "hub has only a variant of them, such as fp16, set model.variant"
        ),
    ),
    case(
        "weights-fp16",
        "weights only of the variant fp16",
        "sd1",
        renamed(UNET, UNET.replace(".s", ".fp16.s")),
        "model m: unet has weights only of the variant fp16. Set model.variant: fp16",
    ),
    case(
        "weights-non-ema",
        "weights only of the variant non_ema",
        "sd1",
        renamed(UNET, UNET.replace(".s", ".non_ema.s")),
        "model m: unet has weights only of the variant non_ema. Set model.variant: non_ema",
    ),
    case(
        "weights-pickled",
        "only pickled weights",
        "sd1",
        pickled,
        (
            "model m: unet has only pickled weights (diffusion_pytorch_model.bin), which can run code. "
            "Convert it if you trust it: diffusers.DiffusionPipeline.from_pretrained('m', "
            "use_safetensors=False).save_pretrained('FOLDER')"
        ),
    ),
    case(
        "single-file",
        "a folder with a checkpoint in one file",
        "sd1",
        single_file,
        (
            "model m/v1-5.safetensors is a single file, so its configurations are needed: give `config` (in a spec, "
            "model.config), the folder or hub id of its model in the diffusers layout. Only .safetensors files are read"
        ),
    ),
    case(
        "single-file-named",
        "a checkpoint in one file",
        "sd1",
        single_file,
        (
            "model m/v1-5.safetensors is a single file, so its configurations are needed: give `config` (in a spec, "
            "model.config), the folder or hub id of its model in the diffusers layout. Only .safetensors files are read"
        ),
        path="./m/v1-5.safetensors",
    ),
    case(
        "single-file-none",
        "a file that does not exist",
        "sd1",
        single_file,
        ("model 'models/v2.safetensors': there is no such file; give a folder in the diffusers layout or a hub id"),
        path="models/v2.safetensors",
    ),
    case(
        "index-class",
        "an unsupported pipeline",
        "sd1",
        settings("model_index.json", _class_name="StableDiffusionInpaintPipeline"),
        (
            "model m: StableDiffusionInpaintPipeline starts from an image of its own. Use the text-to-image pipeline "
            "of the same model"
        ),
    ),
    case(
        "index-part",
        "a model_index.json without a text encoder",
        "sd1",
        settings("model_index.json", text_encoder=[None, None]),
        (
            "model m: model_index.json has no text_encoder, and a StableDiffusionPipeline needs one "
            "(CLIPTextModel). Use a complete text-to-image checkpoint"
        ),
    ),
    case(
        "index-damaged",
        "a model_index.json that is cut",
        "sd1",
        lambda path: (path / "model_index.json").write_text("{"),
        (
            "m/model_index.json is not JSON (Expecting property name enclosed in double quotes: line 1 "
            "column 2 (char 1)). Download the model again"
        ),
    ),
    case(
        "config-none",
        "an autoencoder without config.json",
        "sd1",
        removed("vae/config.json"),
        "model m: no vae/config.json, so it is incomplete. Download it again",
    ),
    case(
        "config-damaged",
        "a config.json that is cut",
        "sd1",
        lambda path: (path / "vae/config.json").write_text("{"),
        (
            "m/vae/config.json is not JSON (Expecting property name enclosed in double quotes: line 1 column"
            " 2 (char 1)). Download the model again"
        ),
    ),
    case(
        "config-size",
        "a UNet without sample_size",
        "sd1",
        settings("unet/config.json", sample_size=None),
        (
            "model m: unet/config.json has the sample_size null, and a whole number is needed. Write the "
            "side that the model was trained on"
        ),
    ),
    case(
        "part-tiny",
        "a tiny autoencoder (TAESD)",
        "sd1",
        tiny_autoencoder,
        ("model m: vae is diffusers.AutoencoderTiny; only AutoencoderKL is supported. Use a checkpoint with it"),
    ),
    case(
        "part-bert",
        "a text encoder of another kind",
        "sd1",
        settings("text_encoder/config.json", model_type="bert"),
        ("model m: text_encoder is of model_type bert; only CLIPTextModel is supported. Use a checkpoint with it"),
    ),
    case(
        "part-quantized",
        "a quantized text encoder",
        "sd3",
        settings("text_encoder_3/config.json", quantization_config={"load_in_8bit": True}),
        (
            "model m: text_encoder_3 is quantized, which is not supported. Use the checkpoint in float32, "
            "float16 or bfloat16"
        ),
    ),
    case(
        "tokenizer-none",
        "no tokenizer",
        "sd1",
        removed("tokenizer"),
        (
            "model m: tokenizer has no vocabulary (tokenizer/tokenizer.json or tokenizer/vocab.json and "
            "tokenizer/merges.txt). Download the model again"
        ),
    ),
    case(
        "tokenizer-more",
        "a token without an embedding",
        "sd1",
        tokens_added,
        (
            "model m: tokenizer has 2706 tokens, but its text encoder has 2705 embeddings. Save the tokenizer "
            "and the text encoder of one model together"
        ),
    ),
    case(
        "tokenizer-length",
        "a tokenizer without a length",
        "sd1",
        settings("tokenizer/tokenizer_config.json", model_max_length=10**6),
        (
            "model m: tokenizer makes up to 1000000 tokens, but its text encoder has 24 positions. Set "
            "model_max_length: 24 in tokenizer/tokenizer_config.json"
        ),
    ),
    case(
        "unet-inpainting",
        "a UNet of 9 channels (inpainting)",
        "sd1",
        another_unet(in_channels=9),
        (
            "model m: unet takes 9 channels, but latents have 4: networks for inpainting, depth or instructions "
            "are not supported. Use the text-to-image checkpoint"
        ),
    ),
    case(
        "unet-distilled",
        "a UNet with time_cond_proj_dim (LCM)",
        "sdxl",
        another_unet(time_cond_proj_dim=8),
        (
            "model m: unet takes the guidance scale, as networks distilled for few steps (LCM) do "
            "(time_cond_proj_dim is 8, expected null). Use the text-to-image checkpoint that it was made from"
        ),
    ),
    case(
        "unet-refiner",
        "a UNet of 5 time ids (the refiner of SDXL)",
        "sdxl",
        another_unet(projection_class_embeddings_input_dim=52),
        (
            "model m: unet.projection_class_embeddings_input_dim is 52, expected 60 from text_encoder_2 and 6 "
            "time ids. Use components of one model"
        ),
    ),
    case(
        "unet-width",
        "a UNet for another text encoder",
        "sd1",
        another_unet(cross_attention_dim=24),
        ("model m: unet.cross_attention_dim is 24, expected 16 from the text encoders. Use components of one model"),
    ),
    case(
        "unet-classes",
        "a UNet on pixels that takes a class",
        "ddpm",
        pixels_with_classes,
        "model m: unet takes a class, which is not supported. Use a checkpoint without classes",
    ),
    case(
        "flux-fill",
        "a FLUX network for inpainting",
        "flux-dev",
        fill_network,
        (
            "model m: transformer takes 96 channels, but latents have 16: networks for inpainting, depth or "
            "instructions are not supported. Use the text-to-image checkpoint"
        ),
    ),
    case(
        "scheduler-none",
        "no scheduler",
        "sd1",
        removed("scheduler"),
        "model m: no scheduler/scheduler_config.json, so it is incomplete. Download it again",
    ),
    case(
        "scheduler-continuous",
        "timesteps that are logarithms of noise levels",
        "sd1",
        settings("scheduler/scheduler_config.json", timestep_type="continuous", prediction_type="v_prediction"),
        (
            "model m: its scheduler has timestep_type: continuous, so its network was trained on the logarithms of "
            "noise levels, which is not supported. Use a checkpoint that was trained on timesteps"
        ),
    ),
    case(
        "scheduler-edm",
        "an EDM scheduler",
        "sdxl",
        scheduler(EDMEulerScheduler()),
        (
            "model m: the scheduler is EDMEulerScheduler (scheduler/scheduler_config.json), which a StableDiffusionXL "
            "cannot use. If the network was trained with betas, name a DDIMScheduler with its betas there"
        ),
    ),
    case(
        "scheduler-flow",
        "flow matching under Stable Diffusion",
        "sd1",
        scheduler(FLOW),
        (
            "model m: the scheduler is FlowMatchEulerDiscreteScheduler (scheduler/scheduler_config.json), which a "
            "StableDiffusion cannot use. If the network was trained with betas, name a DDIMScheduler with its betas "
            "there"
        ),
    ),
    case(
        "scheduler-flow-sigmas",
        "flow sigmas under SDXL",
        "sdxl",
        settings("scheduler/scheduler_config.json", use_flow_sigmas=True),
        (
            "model m: its scheduler has use_flow_sigmas: true, so its network was trained on a flow, and a "
            "StableDiffusionXL predicts noise. Set it to false if the network predicts noise"
        ),
    ),
    case(
        "scheduler-flow-shift",
        "a DPM-Solver with flow_shift",
        "sd3",
        scheduler(DPM_FLOW),
        (
            "model m: the scheduler is DPMSolverMultistepScheduler (scheduler/scheduler_config.json), which a "
            "StableDiffusion3 cannot use. Name a FlowMatchEulerDiscreteScheduler there, with the checkpoint's shift "
            "(other schedulers call it flow_shift)"
        ),
    ),
    case(
        "scheduler-sample",
        "a network that predicts the image",
        "sd1",
        settings("scheduler/scheduler_config.json", prediction_type="sample"),
        (
            "model m predicts 'sample' (prediction_type of its scheduler); only epsilon and v_prediction are "
            "supported. Use a checkpoint that predicts one of them"
        ),
    ),
    case(
        "scheduler-betas",
        "betas of an unknown schedule",
        "sd1",
        settings("scheduler/scheduler_config.json", beta_schedule="sigmoid"),
        (
            "model m: the betas of its scheduler cannot be made (beta_schedule: sigmoid). Use linear, "
            "scaled_linear, squaredcos_cap_v2 or trained_betas"
        ),
    ),
    with_lora(
        "lora-dora",
        "a DoRA of kohya",
        kohya(dora_scale=torch.ones(8, 1)),
        (
            "lora lora.safetensors is a DoRA "
            "(lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.dora_scale); only a "
            "plain LoRA is supported. Merge it into the checkpoint with the tool that it was made for, and give the "
            "merged checkpoint as model.path"
        ),
    ),
    with_lora(
        "lora-loha",
        "a LoHa",
        {key.replace("lora_down.weight", "hada_w1_a"): value for key, value in kohya().items()},
        (
            "lora lora.safetensors is a LoHa "
            "(lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.hada_w1_a); only a "
            "plain LoRA is supported. Merge it into the checkpoint with the tool that it was made for, and give the "
            "merged checkpoint as model.path"
        ),
    ),
    with_lora(
        "lora-other",
        "a LoRA of another model",
        {key: value.repeat(3, 3) if value.dim() else value for key, value in kohya().items()},
        (
            "lora lora.safetensors: "
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight does not "
            "fit this model: the layer is missing or has another shape. Use a LoRA that was trained for this "
            "kind of model"
        ),
    ),
]

LAYOUTS: list[Checkpoint] = [
    case(
        "old-attention",
        "the old names in Stable Diffusion 1.5's autoencoder (`query`, `proj_attn`)",
        "sd1",
        weights(VAE, old_attention),
    ),
    case(
        "text-model",
        "a text encoder with `text_model.` before its names, and `position_ids`",
        "sd1",
        weights(TEXT, old_text),
    ),
    case("whole-clip", "a whole CLIPModel as text encoder", "sd1", whole_clip),
    case("whole-t5", "a whole T5ForConditionalGeneration as text encoder", "pixart-sigma", whole_t5),
    case(
        "t5-shared",
        "a T5 with one copy of its embeddings",
        "pixart-sigma",
        weights(TEXT, without("encoder.embed_tokens.weight")),
    ),
    case("fp16-added", "an fp16 variant, with `model.variant: fp16`", "sd1", fp16, variant="fp16"),
    case("fp16-only", "only an fp16 variant, with `model.variant: fp16`", "sd1", fp16_only, variant="fp16"),
    case(
        "non-ema",
        "a UNet only in the variant non_ema, with `model.variant: non_ema`",
        "sd1",
        renamed(UNET, UNET.replace(".s", ".non_ema.s")),
        variant="non_ema",
    ),
    case("shards", "weights in shards", "sd1", sharded),
    case(
        "half",
        "weights in float16",
        "sd1",
        weights(UNET, lambda state: {key: value.half() for key, value in state.items()}),
    ),
    case("without-t5", "a Stable Diffusion 3 without T5", "sd3-without-t5", lambda path: None),
    case("pixart-old", "the old class name of PixArt's network (`Transformer2DModel`)", "pixart-sigma", old_pixart),
    case(
        "tokenizer-fast",
        "a tokenizer named `CLIPTokenizerFast`",
        "sd1",
        settings("model_index.json", tokenizer=["transformers", "CLIPTokenizerFast"]),
    ),
    case("vectors", "a textual inversion of several vectors", "sd1", several_vectors),
    case("statistics", "an SDXL autoencoder with `latents_mean` and `latents_std`", "sdxl", STATISTICS),
    case(
        "scheduler-any",
        "any scheduler of diffusers with betas (`UniPCMultistepScheduler`)",
        "sd1",
        settings("scheduler/scheduler_config.json", _class_name="UniPCMultistepScheduler"),
    ),
    case("flat", "a DDPM without folders", "ddpm", flat),
    with_lora("lora-kohya", "a LoRA of kohya", kohya()),
]

CHECKPOINTS: Sequence[Checkpoint] = [*REFUSALS, *LAYOUTS]

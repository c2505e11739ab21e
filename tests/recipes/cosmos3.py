"""Cosmos 3: text to video, without sound. Its scheduler is given latents with one more axis in front."""

import torch
from diffusers import AutoencoderKLWan, Cosmos3OmniPipeline, Cosmos3OmniTransformer, UniPCMultistepScheduler
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.recipes.trial import Trial, random, recipe

TRANSFORMER = {
    "head_dim": 8,
    "hidden_act": "silu",
    "hidden_size": 16,
    "intermediate_size": 16,
    "latent_channel": 16,
    "latent_patch_size": 1,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "num_key_value_heads": 2,
    "patch_latent_dim": 16,
    "rope_axes_dim": [2, 1, 1],
    "vocab_size": 8,
}
WORDS = ("[UNK]", "a", "dog", "bad", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", eos_token="<|im_end|>", chat_template=template
    )


@recipe("Cosmos3OmniPipeline")
def cosmos3(dtype: torch.dtype) -> Trial:
    pipe = Cosmos3OmniPipeline(
        transformer=random(Cosmos3OmniTransformer, dtype, **TRANSFORMER),
        text_tokenizer=tokenizer(),
        vae=random(AutoencoderKLWan, torch.float32, base_dim=3, dim_mult=[1, 1, 1, 1], num_res_blocks=1),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0),
        enable_safety_checker=False,
    )
    call = {
        "prompt": "a dog",
        "negative_prompt": "bad",
        "height": 16,
        "width": 16,
        "num_frames": 5,
        "use_system_prompt": False,
        "add_resolution_template": False,
        "add_duration_template": False,
    }

    def given(latents: torch.Tensor) -> torch.Tensor:
        return latents[0]

    guided, unguided = {"guidance_scale": 3.0}, {"guidance_scale": 1.0}
    return Trial(pipe, (1, 1, 16, 2, 2, 2), call, guided, unguided, dtype=torch.float32, call_latents=given)

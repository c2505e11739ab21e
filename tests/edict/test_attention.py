"""Attention control: bases are exact, edits follow the paper, and the network is unchanged afterwards."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from edict import EDICT, Blend, Control, LatticeOverflow, NonFinite, Pair
from edict.control import WordNotFound, generation, ineffective_reason, matches_earlier_versions
from edict.control.attention import blend_mask, controlled_attention
from edict.control.batch import BatchMember, ControlBatch, control_batch, make_batches
from edict.control.generation import ControlledGuidance
from edict.control.settings import cross_steps, self_steps
from edict.control.words import align_words, find_phrase, split_words
from edict.guidance import guided_predictor
from edict.samplers import sampling
from tests.edict.checkpoints import Folder, stable_diffusion_xl

SOURCES = ["red heart", "a cat on a blue background", "dog face", "two green apples, close together"]
PROMPTS = [
    ["blue heart", "red heart on a yellow background"],
    [],
    ["polar bear face", "face", "cat face", "fox face", "dog face, noto emoji"],
    ["two red apples, close together"],
]
MASK = torch.zeros(8, 8, 8, dtype=torch.bool)
for i in range(8):
    MASK[i, i, 2:6] = MASK[i, :, i] = True  # All masks differ.
CONTROLS = {
    "plain": Control(),
    "whole": Control(cross=1, self_=1),
    "none": Control(cross=0, self_=0, blend=torch.ones_like(MASK)),
    "blend": Control(blend=Blend(threshold=0.6)),
    "mask": Control(blend=MASK),
}


@pytest.fixture(scope="module")
def model(folder: Folder) -> EDICT:
    """Return a small model with random weights, because no test here depends on the images."""
    return EDICT.from_pretrained(folder("sd1"))


@pytest.fixture(scope="module")
def half(folder: Folder) -> EDICT:
    return EDICT.from_pretrained(folder("sd1"), dtype=torch.bfloat16)


def equal(one: Pair, other: Pair) -> bool:
    return torch.equal(one.x, other.x) and torch.equal(one.y, other.y)


def inverted(model: EDICT, images: list[Image.Image], *, guidance_scale: float, steps: int = 4) -> tuple[Pair, Pair]:
    start = model.encode(images[:4])
    ready = model.prepare(start, sampling(steps=steps, strength=1.0, guidance_scale=guidance_scale), 4)
    noise, faults = model.integrate(ready, SOURCES, 0)
    assert not faults
    return ready, noise


BASES = [0, 3, 4, 10]  # the samples of the result that are bases
EDITS = [1, 2, 5, 6, 7, 8, 9, 11]


@pytest.mark.parametrize(
    ("control", "base_scale", "guidance_scale", "dtype"),
    [
        *((name, 3.0, None, torch.float32) for name in CONTROLS),
        *(("plain", base, edit, torch.float32) for base, edit in ((1, 4.5), (3, 1), (0, 3), (7, 0))),
        ("whole", 3.3, 5.0, torch.bfloat16),
        ("blend", 1.0, None, torch.bfloat16),
    ],
)
def test_bases_regenerate_exactly_under_control(
    model: EDICT,
    half: EDICT,
    images: list[Image.Image],
    control: str,
    base_scale: float,
    guidance_scale: float | None,
    dtype: torch.dtype,
) -> None:
    model = half if dtype == torch.bfloat16 else model
    start, noise = inverted(model, images, guidance_scale=base_scale, steps=2)
    made, faults = model.edit(noise, SOURCES, PROMPTS, control=CONTROLS[control], guidance_scale=guidance_scale)
    assert not faults
    assert (len(made), made.position) == (12, start.position)
    assert equal(made[BASES], start)
    changed = [not torch.equal(made.x[i], start.x[row]) for row, edits in ((0, (1, 2)), (3, (11,))) for i in edits]
    assert (
        all(changed) == any(changed) == (base_scale != 0 or guidance_scale is not None)
    )  # At scale 0, no caption has an effect.


def test_bases_regenerate_exactly_with_a_guidance_interval(model: EDICT, images: list[Image.Image]) -> None:
    """Outside of the interval, the scale of bases and edits is 1."""
    start = model.encode(images[:4])
    for interval in ((0.5, 5.0), (0, 0.01)):
        ready = model.prepare(start, sampling(steps=4, strength=1.0, guidance_scale=3.0, guidance_interval=interval), 4)
        noise, _ = model.integrate(ready, SOURCES, 0)
        made, plain = (
            model.edit(noise, SOURCES, PROMPTS, control=Control(), guidance_scale=scale)[0] for scale in (7.0, 1.0)
        )
        assert equal(made[BASES], ready) and equal(plain[BASES], ready)
        assert equal(made, plain) == (interval == (0, 0.01))


@pytest.mark.parametrize("guidance_scale", [1.0, 3.3])
def test_a_control_of_no_steps_equals_no_control(
    model: EDICT, images: list[Image.Image], guidance_scale: float
) -> None:
    start, noise = inverted(model, images, guidance_scale=guidance_scale, steps=2)
    made, _ = model.edit(noise, SOURCES, PROMPTS, control=CONTROLS["none"])
    of = [row for row, edits in enumerate(PROMPTS) for _ in edits]
    plain, _ = model.integrate(noise[of], [prompt for edits in PROMPTS for prompt in edits], start.position)
    assert equal(made[EDITS], plain)
    controlled, _ = model.edit(noise, SOURCES, PROMPTS, control=Control())
    assert not any(torch.equal(a, b) for a, b in zip(controlled.x[EDITS], plain.x, strict=True))


@pytest.mark.parametrize("control", CONTROLS)
def test_an_edit_to_the_same_caption_is_the_base(model: EDICT, images: list[Image.Image], control: str) -> None:
    start, noise = inverted(model, images, guidance_scale=3.0, steps=2)
    controlled = CONTROLS[control]
    if isinstance(controlled.blend, torch.Tensor):
        controlled = replace(controlled, blend=controlled.blend[:4])
    made, _ = model.edit(noise, SOURCES, [[caption] for caption in SOURCES], control=controlled)
    assert equal(made[0::2], start)
    assert equal(made[1::2], start)


def test_an_edit_does_not_depend_on_its_batch(model: EDICT, images: list[Image.Image]) -> None:
    _, noise = inverted(model, images, guidance_scale=3.0, steps=2)
    control = Control(blend=Blend())
    made, _ = model.edit(noise, SOURCES, PROMPTS, control=control)
    for i, prompt in enumerate(PROMPTS[2]):
        single, _ = model.edit(noise[2:3], SOURCES[2:3], [[prompt]], control=control)
        assert equal(single[1:2], made[5 + i : 6 + i])


def test_an_edit_of_the_last_steps_branches_from_the_caption(model: EDICT, images: list[Image.Image]) -> None:
    start, noise = inverted(model, images, guidance_scale=3.0)
    made, _ = model.edit(noise, SOURCES, PROMPTS, control=Control(), steps=2)
    branch, _ = model.integrate(noise, SOURCES, 2)
    assert equal(made, model.edit(branch, SOURCES, PROMPTS, control=Control())[0])
    assert equal(made[BASES], start)
    for steps in (0, 5):
        with pytest.raises(ValueError, match="expected a whole number from 1 to 4"):
            model.edit(noise, SOURCES, PROMPTS, control=Control(), steps=steps)


@pytest.mark.parametrize(("window", "shares"), [("cross", (0.16, 0.34, 0.49, 0.5)), ("self_", (0.19, 0.4, 0.59, 0.6))])
def test_shares_give_the_steps_of_the_papers_code(
    model: EDICT, images: list[Image.Image], window: str, shares: Sequence[float]
) -> None:
    """The shares give 0, 2, 2 and 3 of 5 steps."""
    _, noise = inverted(model, images, guidance_scale=1.0, steps=6)

    def made(**shares: float) -> Pair:
        control = Control(**{"cross": 0, "self_": 0, "blend": MASK[:1] | True, **shares})
        return model.edit(noise[:1], SOURCES[:1], [["blue heart"]], control=control, steps=5)[0]

    none, two, also_two, three = (made(**{window: share}) for share in shares)
    assert equal(none, made())
    assert equal(two, also_two)
    assert len({one.digests()[1] for one in (none, two, three)}) == 3


def test_cross_and_self_steps_follow_the_papers_code() -> None:
    """The source is `get_time_words_attention_alpha` and `num_self_replace` of google/prompt-to-prompt."""
    for steps, tenths in product(range(1, 51), range(11)):
        share = tenths / 10
        control = Control(cross=share, self_=share)
        assert cross_steps(control, steps) == min(steps, tenths * (steps + 1) // 10)
        assert self_steps(control, steps) == tenths * steps // 10


class PaperProcessor:
    """The paper's Algorithm 1 in its simplest form: compute all probabilities, replace those of edits, apply them."""

    def __init__(self, base: list[int], mapping: torch.Tensor, weights: torch.Tensor, cross: bool, self_: bool) -> None:
        self.base, self.mapping, self.weights, self.cross, self.self_ = base, mapping, weights, cross, self_

    def __call__(
        self, layer: Attention, states: torch.Tensor, encoder_hidden_states: torch.Tensor | None = None, **_: object
    ) -> torch.Tensor:
        context = states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            layer.head_to_batch_dim(projected, out_dim=4)
            for projected in (layer.to_q(states), layer.to_k(context), layer.to_v(context))
        )
        probabilities = torch.einsum("bhqd,bhkd->bhqk", query * layer.scale, key).softmax(-1)
        given = probabilities.clone()
        first = len(states) - len(self.base)  # conditional branch last
        for i, base in enumerate(self.base):
            if encoder_hidden_states is None:
                if self.self_:
                    probabilities[first + i] = given[first + base]
                continue
            if i == base:
                continue
            for token in range(self.mapping.shape[-1]):
                if not self.cross:
                    continue
                if self.mapping[i, :, token].any():
                    probabilities[first + i, ..., token] = given[first + base] @ self.mapping[i, :, token]
                probabilities[first + i, ..., token] *= self.weights[i, token]
        attended = torch.einsum("bhqk,bhkd->bqhd", probabilities, value).flatten(2)
        return layer.to_out[1](layer.to_out[0](attended))


@pytest.mark.parametrize(("cross", "self_", "both"), [(True, False, False), (False, True, True), (True, True, True)])
@torch.inference_mode()
def test_attention_is_replaced_as_in_the_paper(model: EDICT, cross: bool, self_: bool, both: bool) -> None:
    """The reference is the paper's algorithm as an attention processor, for one branch of guidance or `both`."""
    members = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    captions = [
        "a cat on a blue background",
        "a polar bear on a blue background",
        "a cat",
        "red heart",
        "a big red heart",
    ]
    of = control_batch(members, captions, Control(weights={"a": 2.0}), model.backend.tokenizer, model.device)
    text, empty = (model.backend.condition(texts)["encoder_hidden_states"] for texts in (captions, [""]))
    count, states = len(members), torch.cat([empty.expand_as(text), text]) if both else text
    latents = torch.randn(len(states), 4, 8, 8, generator=torch.Generator().manual_seed(0))
    plain = model.network(latents, 501, states).sample
    with controlled_attention(model.network, of, 64, cross=cross, self_=self_, maps={}):
        ours = model.network(latents, 501, states).sample
    mapping, weights = torch.eye(24).repeat(count, 1, 1), torch.ones(count, 24)
    mapping[of.edits], weights[of.edits] = of.mapping, of.weights
    before = model.network.attn_processors
    model.network.set_attn_processor(PaperProcessor(of.base.tolist(), mapping, weights, cross, self_))
    try:
        theirs = model.network(latents, 501, states).sample
    finally:
        model.network.set_attn_processor(before)
    assert torch.allclose(ours, theirs, atol=1e-4)
    edits = len(states) - count + of.edits
    assert not torch.isclose(ours[edits], plain[edits], atol=1e-2).flatten(1).all(1).any()
    bases = [i for i in range(len(states)) if i not in edits]
    assert torch.equal(ours[bases], plain[bases])


@pytest.mark.parametrize(
    ("base_scale", "scale"), [(1, 1), (1, 4.5), (0, 0), (0, 3), (0, 1), (3.3, 3.3), (7, 3), (3, 1), (5, 0)]
)
@torch.inference_mode()
def test_the_prediction_of_a_base_does_not_change_under_control(model: EDICT, base_scale: float, scale: float) -> None:
    """An edit outside of the controlled steps is also equal, if both scales need the same branches."""
    members, captions = [(0, 0), (0, 1), (1, 0), (1, 1)], ["red heart", "blue heart", "dog face", "cat face"]
    of = control_batch(members, captions, Control(), model.backend.tokenizer, model.device)
    text, empty = model.backend.condition(captions), model.backend.unconditional()
    latents = torch.randn(4, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scales = [base_scale, scale, base_scale, scale]

    def predicted(inside: bool) -> torch.Tensor:
        make = ControlledGuidance(model.backend, text, empty, scales, base_scale, of).predictor(
            cross=inside, self_=inside, maps=None
        )
        return make(latents, 501)

    plain = guided_predictor(model.backend, text, empty, base_scale)(latents, 501)
    calls: list[int] = []
    with model.network.register_forward_pre_hook(lambda _, arguments: calls.append(len(arguments[0]))):
        inside, outside = predicted(True), predicted(False)
    assert set(calls) == {4 if base_scale in (0, 1) else 8}, "the shape of the batch is the base's"
    assert torch.equal(inside[[0, 2]], plain[[0, 2]])
    assert torch.equal(outside[[0, 2]], plain[[0, 2]])
    uncontrolled = guided_predictor(model.backend, text, empty, scale)(latents, 501)
    assert torch.allclose(outside[[1, 3]], uncontrolled[[1, 3]], atol=1e-4)
    if base_scale == scale or {base_scale, scale}.isdisjoint({0, 1}) or (base_scale, scale) == (0, 1):
        assert torch.equal(outside[[1, 3]], uncontrolled[[1, 3]])
    assert torch.equal(inside[[1, 3]], outside[[1, 3]]) == (scale == 0)


@pytest.mark.parametrize(
    ("base", "edit", "expected"),
    [
        ("red heart", "blue heart", {1: [1], 2: [2]}),  # a word for a word
        ("heart", "big heart", {1: [2]}),  # a word that is new has none
        ("big heart", "heart", {2: [1]}),
        ("", "heart", {}),
        ("cat, noto emoji", "polar bear, noto emoji", {1: [1, 2], 2: [3], 3: [4], 4: [5]}),  # a phrase for a phrase
    ],
)
def test_captions_are_aligned_word_by_word(model: EDICT, base: str, edit: str, expected: dict[int, list[int]]) -> None:
    these, those = split_words(model.backend.tokenizer, base), split_words(model.backend.tokenizer, edit)
    mapping = align_words(these, those, 24)
    ends = [1 + sum(len(tokens) for _, tokens in words) for words in (these, those)]
    words = mapping[1 : ends[0], 1 : ends[1]]
    for i, j in product(range(1, ends[0]), range(1, ends[1])):
        assert words[i - 1, j - 1] == (1 / len(expected[i]) if j in expected.get(i, []) else 0)
    assert mapping[0, 0] == 1
    assert mapping[ends[0], ends[1]] == 1, "the end goes with the end"
    assert mapping.sum() == 1 + len(expected) + 24 - max(ends)
    assert torch.equal(align_words(those, those, 24), torch.eye(24))


def test_words_of_several_tokens_share_the_attention(model: EDICT) -> None:
    one, three = split_words(model.backend.tokenizer, "red heart"), split_words(model.backend.tokenizer, "xqzj heart")
    count = len(three[0][1])
    assert count > 1
    mapping = align_words(one, three, 24)
    assert mapping[1, 1 : 1 + count].tolist() == pytest.approx([1 / count] * count)
    assert mapping.sum(1)[:3].tolist() == pytest.approx([1.0] * 3)
    back = align_words(three, one, 24)
    assert back[1 : 1 + count, 1].tolist() == [1.0] * count
    assert find_phrase(three, split_words(model.backend.tokenizer, "XQZJ")) == list(range(1, 1 + count))


@pytest.mark.parametrize("caption", ["", "a", "snow-covered cat's café, 🐈 no. 42", "a red heart and " * 20])
def test_words_cover_the_tokens_of_the_text_encoder(model: EDICT, caption: str) -> None:
    ids = model.backend.tokenizer(caption, truncation=True).input_ids
    words = split_words(model.backend.tokenizer, caption)
    assert [token for _, tokens in words for token in tokens] == list(range(1, len(ids) - 1))
    assert len(words) <= len(caption)
    assert not any(" " in word for word, _ in words)


def test_find_phrase_returns_every_occurrence(model: EDICT) -> None:
    words = split_words(model.backend.tokenizer, "a dog face and a dog")
    assert find_phrase(words, split_words(model.backend.tokenizer, "dog")) == [2, 6]
    assert find_phrase(words, split_words(model.backend.tokenizer, "dog face")) == [2, 3]
    assert find_phrase(words, split_words(model.backend.tokenizer, "cat")) == []
    assert find_phrase(words, []) == []


@pytest.mark.parametrize(
    ("counts", "batch_size", "expected"),
    [
        ([1, 1], 4, [[(0, 0), (0, 1), (1, 0), (1, 1)]]),
        ([1, 1], 3, [[(0, 0), (0, 1)], [(1, 0), (1, 1)]]),
        ([4], 3, [[(0, 0), (0, 1), (0, 2)], [(0, 0), (0, 3), (0, 4)]]),
        ([0, 0, 0], 2, [[(0, 0), (1, 0)], [(2, 0)]]),
        ([0, 0], 1, [[(0, 0)], [(1, 0)]]),
        ([1, 0, 2], 3, [[(0, 0), (0, 1), (1, 0)], [(2, 0), (2, 1), (2, 2)]]),
    ],
)
def test_every_batch_has_the_bases_of_its_edits(
    counts: list[int], batch_size: int, expected: list[list[BatchMember]]
) -> None:
    assert make_batches(counts, batch_size) == expected


def test_an_edit_in_a_batch_of_one_is_an_error(model: EDICT) -> None:
    with pytest.raises(ValueError, match="Invert with 2 or more"):
        make_batches([1], 1)


def test_each_edit_has_its_own_mask_in_any_batch(model: EDICT, images: list[Image.Image]) -> None:
    start, noise = inverted(model, images, guidance_scale=1.0, steps=2)
    made, _ = model.edit(noise, SOURCES, PROMPTS, control=Control(0, 0, blend=MASK))
    of = [row for row, edits in enumerate(PROMPTS) for _ in edits]
    differs = (made.x[EDITS] != start.x[of]).any(1)
    assert not (differs & ~MASK).any()
    assert (differs & MASK).any((1, 2)).all()


@pytest.mark.parametrize("blend", [MASK[:2], Blend(threshold=0.995, start=0.0)], ids=["given", "words"])
def test_an_edit_equals_its_base_outside_the_mask_after_every_step(
    model: EDICT, images: list[Image.Image], blend: Blend | torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks: list[torch.Tensor] = []
    blended = generation.keep_base

    def record(states: torch.Tensor, of: ControlBatch, allowed: torch.Tensor) -> torch.Tensor:
        masks.append(allowed)
        return blended(states, of, allowed)

    monkeypatch.setattr(generation, "keep_base", record)  # This only records the masks.
    start, noise = inverted(model, images, guidance_scale=1.0)
    shown: list[torch.Tensor] = []
    with model.network.register_forward_pre_hook(lambda _, arguments: shown.append(arguments[0].clone())):
        made, _ = model.edit(noise[[0, 3]], [SOURCES[0], SOURCES[3]], [PROMPTS[0][:1], PROMPTS[3]], control=Control(
            cross=0.5, self_=0.5, blend=blend
        ))  # fmt: skip
    assert len(shown) == len(masks) == 8  # Each step has two calls and two states.
    for i in range(4):
        outside = ~masks[2 * i][:, None].expand(-1, 4, -1, -1)
        assert 0 < outside.sum() < outside.numel()
        base, edit = (shown[2 * i + 2][[0, 2]], shown[2 * i + 2][[1, 3]]) if i < 3 else (made.x[[0, 2]], made.x[[1, 3]])
        assert torch.equal(base[outside], edit[outside])
        assert not torch.equal(base[~outside], edit[~outside])
    assert torch.equal(made.y[[0, 2]][outside], made.y[[1, 3]][outside])
    assert equal(made[[0, 2]], start[[0, 3]])


def test_the_mask_is_the_area_of_high_attention() -> None:
    """The mask is the union of both finest maps, widened by one pixel."""
    fine = torch.zeros(2, 2, 8, 8)
    fine[0, 0, 2, 3], fine[0, 1, 6, 6], fine[0, 1, 0, 0] = 4.0, 2.0, 0.5
    mask = blend_mask({64: fine.flatten(2), 16: torch.ones(2, 2, 16)}, 0.3, (16, 16))
    expected = torch.zeros(2, 16, 16, dtype=torch.bool)
    expected[0, 2:8, 4:10] = expected[0, 10:16, 10:16] = True
    assert torch.equal(mask, expected), "no attention gives no mask"


def test_weights_change_the_effect_of_a_word(model: EDICT, images: list[Image.Image]) -> None:
    start, noise = inverted(model, images, guidance_scale=1.0, steps=2)

    def made(cross: float = 1, **weights: float) -> Pair:
        control = Control(cross=cross, self_=0, weights=weights)
        return model.edit(noise[:1], SOURCES[:1], [["blue heart"]], control=control)[0]

    digests = {one.digests()[1] for one in (made(), made(blue=2.0), made(blue=0.0), made(heart=2.0))}
    assert len(digests) == 4
    assert equal(made(blue=1.0), made())
    assert equal(made(blue=2.0)[:1], start[:1])
    assert not equal(made(0.5, blue=2.0), made(blue=2.0)), "they act within the window of cross-attention"


def test_a_missing_word_is_an_error_that_names_it(model: EDICT, images: list[Image.Image]) -> None:
    noise = model.prepare(model.encode(images[:1]), sampling(steps=2, strength=1.0, guidance_scale=1.0), 2)
    noise = replace(noise, position=0)
    for control, message in (
        (Control(weights={"snow": 2.0}), "'snow' has a weight, but is not in the prompt"),
        (
            Control(blend=Blend(("snow", "ice"))),
            "neither the caption nor the prompt has the words of the mask, 'snow', 'ice'",
        ),
    ):
        with pytest.raises(WordNotFound, match=message):
            model.edit(noise, ["red heart"], [["blue heart"]], control=control)


@pytest.mark.parametrize(
    ("name", "control"),
    [
        ("cross", {"cross": -0.1}),
        ("self_", {"self_": 1.1}),
        ("blend.threshold", {"blend": Blend(threshold=2.0)}),
        ("blend.start", {"blend": Blend(start=-1)}),
    ],
)
def test_a_share_out_of_range_is_an_error(name: str, control: dict) -> None:
    with pytest.raises(ValueError, match=f"{name} is .* between 0 and 1"):
        Control(**control)


def test_lists_of_wrong_lengths_are_errors(model: EDICT, images: list[Image.Image]) -> None:
    pair = model.prepare(model.encode(images[:2]), sampling(steps=1, strength=1.0, guidance_scale=1.0))
    with pytest.raises(ValueError, match="the pair has 2 samples, but there are 1 lists of prompts"):
        model.edit(pair, SOURCES[:2], [["a"]], control=Control())
    with pytest.raises(
        ValueError, match=r"the mask has the shape \[8, 8, 8\]: expected \[2, 8, 8\], one mask per edit"
    ):
        model.edit(pair, SOURCES[:2], [["a"], ["b"]], control=Control(blend=MASK))
    with pytest.raises(ValueError, match="the pair has 2 samples, but there are 1 negative captions"):
        model.integrate(pair, SOURCES[:2], 0, negative_captions=["blurred"])
    with pytest.raises(
        ValueError, match="negative_prompts and prompts have different lengths: give one negative prompt per prompt"
    ):
        model.edit(pair, SOURCES[:2], [["a"], ["b"]], control=Control(), negative_prompts=[["blurred"], []])


@pytest.mark.parametrize("fails", [False, True])
def test_hooks_are_removed_after_an_edit(model: EDICT, images: list[Image.Image], fails: bool) -> None:
    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.network.modules())

    def out_of_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("for a test")

    _, noise = inverted(model, images, guidance_scale=3.0, steps=1)
    before, processors = hooks(), dict(model.network.attn_processors)
    with ExitStack() as stack:
        if fails:
            stack.enter_context(model.network.conv_out.register_forward_pre_hook(out_of_memory))
            stack.enter_context(pytest.raises(torch.OutOfMemoryError))
        model.edit(noise, SOURCES, PROMPTS, control=Control(1, 1, {}, Blend()))
    assert hooks() == before
    assert model.network.attn_processors == processors


def test_a_rows_fault_is_also_its_edits(model: EDICT, images: list[Image.Image]) -> None:
    ready, noise = inverted(model, images, guidance_scale=1.0, steps=2)
    wild = replace(noise, x=noise.x.clone(), y=noise.y.clone())
    wild.x[0] = wild.y[0] = 2**46
    for steps in (None, 1):
        made, faults = model.edit(wild, SOURCES, PROMPTS, control=Control(cross=0.5), steps=steps)
        assert sorted(faults) == [0, 1, 2]
        assert all(isinstance(fault, LatticeOverflow) for fault in faults.values())
        assert equal(made[BASES[1:]], ready[1:])


def test_a_fault_of_only_the_base_is_also_its_edits(model: EDICT, images: list[Image.Image]) -> None:
    """Otherwise the edits would use NaN attention."""

    def lose_the_first(_: object, __: object, predicted: torch.Tensor) -> torch.Tensor:
        return torch.cat([predicted[:1] * torch.nan, predicted[1:]])

    _, noise = inverted(model, images, guidance_scale=1.0, steps=1)
    with model.network.conv_out.register_forward_hook(lose_the_first):
        _, faults = model.edit(noise[:2], SOURCES[:2], PROMPTS[:2], control=Control(cross=0.5))
    assert sorted(faults) == [0, 1, 2]
    assert all(isinstance(fault, NonFinite) for fault in faults.values())


NEGATIVES = ["blurred", None, "grey background", "cat"]


def test_negative_captions_are_exact(model: EDICT, images: list[Image.Image]) -> None:
    start, plain = inverted(model, images, guidance_scale=3.0, steps=2)
    noise, _ = model.integrate(start, SOURCES, 0, negative_captions=NEGATIVES)
    assert [torch.equal(a, b) for a, b in zip(noise.x, plain.x, strict=True)] == [False, True, False, False]
    same, _ = model.integrate(noise, SOURCES, start.position, negative_captions=NEGATIVES)
    assert equal(same, start)
    part, _ = model.integrate(replace(start, batch_size=3), SOURCES, 0, negative_captions=NEGATIVES)  # a padded batch
    assert equal(model.integrate(part, SOURCES, start.position, negative_captions=NEGATIVES)[0], start)


@pytest.mark.parametrize("base_scale", [3.0, 0.0])
def test_negative_prompts_apply_only_to_their_edits(model: EDICT, images: list[Image.Image], base_scale: float) -> None:
    start, noise = inverted(model, images, guidance_scale=base_scale, steps=2)

    def made(negative_prompts: list[list[str | None]] | None) -> Pair:
        return model.edit(
            noise, SOURCES, PROMPTS, control=Control(), steps=2, guidance_scale=3.0, negative_prompts=negative_prompts
        )[0]

    some = made([["cat", None], [], [None] * 5, ["blurred"]])
    none = made(None)
    assert equal(some[BASES], start)
    same = [torch.equal(a, b) for a, b in zip(some.x, none.x, strict=True)]
    assert same == [i not in (1, 11) for i in range(12)]


@torch.inference_mode()
def test_negative_captions_replace_the_empty_caption(model: EDICT) -> None:
    latents = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    captions = ["red heart", "dog face"]

    def predicted(guidance_scale: float, negative_captions: list[str | None] | None = None) -> torch.Tensor:
        return model.direct.predictor(captions, guidance_scale, negative_captions)(latents, 501)

    assert torch.equal(predicted(1.0, ["blurred", "cat"]), predicted(1.0))
    assert torch.allclose(predicted(3.0, ["", ""]), predicted(3.0), atol=1e-4)
    away, with_text = model.direct.predictor(["blurred", "cat"], 1.0)(latents, 501), predicted(1.0)
    assert torch.allclose(predicted(3.0, ["blurred", "cat"]), away + 3 * (with_text - away), atol=1e-4)
    assert torch.allclose(predicted(0.0, ["blurred", "cat"]), away, atol=1e-4)


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> EDICT:
    """Return an SDXL with a coarsest attention map of a quarter of the latent's side, and above 16x16."""
    torch.manual_seed(0)
    pipeline = stable_diffusion_xl()
    pipeline.unet = UNet2DConditionModel.from_config(
        pipeline.unet.config,
        sample_size=72,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 8, 16),
    )
    folder = tmp_path_factory.mktemp("larger")
    pipeline.save_pretrained(folder)
    return EDICT.from_pretrained(folder)


@pytest.mark.parametrize("control", [Control(cross=0, self_=1), Control(cross=0, self_=0, blend=Blend(threshold=0.97))])
def test_control_has_an_effect_on_sdxl(larger: EDICT, images: list[Image.Image], control: Control) -> None:
    assert larger.backend.attention_sides == [18]
    start = larger.encode(images[:1])
    noise = larger.invert(start, SOURCES[:1], steps=2, guidance_scale=1.0, batch_size=2)
    free = Control(cross=0, self_=0, blend=torch.ones(1, *start.x.shape[2:], dtype=torch.bool))
    controlled, plain = (larger.edit(noise, SOURCES[:1], [["blue heart"]], control=c)[0] for c in (control, free))
    assert torch.equal(controlled.x[0], start.x[0])
    assert not torch.equal(controlled.x[1], plain.x[1]) and not torch.equal(controlled.x[1], start.x[0])


@pytest.mark.parametrize(
    ("control", "steps", "side", "sides", "reason"),
    [
        (Control(), 50, 64, [64, 32, 16, 8], None),  # Stable Diffusion 1
        (Control(), 50, 128, [64, 32], None),  # SDXL
        (Control(), 5, 8, [8, 4], None),  # the shipped model
        (
            Control(),
            50,
            128,
            [64],
            "self-attention has no effect: the model has no attention map of at most 1024 pixels",
        ),
        (Control(self_=0), 50, 128, [64], None),
        (Control(self_=0, blend=Blend()), 50, 128, [64], "a mask of words has no effect"),
        (Control(self_=0, blend=MASK), 50, 128, [64], None),
        (Control(blend=Blend(start=1.0)), 50, 64, [16], "the mask of words starts after all 50 steps"),
        (
            Control(cross=0, weights={"a": 2.0}),
            50,
            64,
            [16],
            "weights have no effect: they act in the steps of cross-attention",
        ),
        (Control(), 1, 64, [16], "give 0 of 1 steps, and there is no mask"),
        (Control(cross=0, self_=0), 50, 64, [16], "give 0 of 50 steps, and there is no mask"),
        (Control(cross=0, self_=0, blend=MASK), 50, 64, [16], None),
    ],
)
def test_a_control_without_effect_is_an_error(
    control: Control, steps: int, side: int, sides: list[int], reason: str | None
) -> None:
    found = ineffective_reason(control, steps, side, sides)
    assert found is None if reason is None else found is not None and reason in found


@pytest.mark.parametrize(
    ("control", "steps", "side", "sides", "same"),
    [
        (Control(), 50, 64, [64, 32, 16, 8], True),
        (Control(), 25, 8, [8, 4], True),
        (Control(), 2, 8, [8, 4], False),  # The window has one step more.
        (Control(weights={"a": 2.0}), 50, 64, [16], False),  # Weights acted outside the window.
        (Control(cross=1, weights={"a": 2.0}), 50, 64, [16], True),
        (Control(), 50, 128, [64, 32], False),  # SDXL's maps of 32x32 were too large.
        (Control(self_=0), 50, 128, [64, 32], True),
        (Control(self_=0, blend=Blend()), 50, 128, [64, 32], False),
    ],
)
def test_edits_that_differ_from_earlier_versions_are_detected(
    control: Control, steps: int, side: int, sides: list[int], same: bool
) -> None:
    assert matches_earlier_versions(control, steps, side, sides) == same


class Reads(TorchDispatchMode):
    """Collect the operators that need a tensor's values on the CPU, and would therefore wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.names = list[str]()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket._qualified_op_name.removeprefix("aten::")
        of_mask = name in ("index", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if of_mask or name in ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal"):
            self.names.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("blend", [None, Blend(threshold=0.5, start=0.5)])
def test_no_step_reads_values_of_the_network(
    model: EDICT, blend: Blend | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tests/gpu has the same test with a real GPU."""
    noise = model.invert(model.encode([Image.new("RGB", (16, 16), "red")]), "a red heart", steps=4, batch_size=2)
    generate, reads = generation.generate, Reads()

    def watched(*given: Any, **named: Any) -> Any:
        with reads:
            return generate(*given, **named)

    monkeypatch.setattr(generation, "generate", watched)
    _, faults = model.edit(noise, ["a red heart"], [["a blue heart"]], control=Control(0.5, 0.5, blend=blend))
    assert not faults and reads.names == []

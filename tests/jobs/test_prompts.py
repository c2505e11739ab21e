"""Prompt edits: the replaced words, the unchanged captions, and the names of variants."""

import pickle
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.prompts import PromptVariant, prompts, variants
from schemas.specs import Edit


def replaced(caption: str, **words: str) -> str | None:
    return replaced_by(caption, words)


def replaced_by(caption: str, words: dict[str, str]) -> str | None:
    (variant,) = variants([Edit(name="e", replace=dict(words))])
    return variant.rewrite(caption)


def template(prompt: str) -> PromptVariant:
    (variant,) = variants([Edit(name="e", prompt=prompt)])
    return variant


@pytest.mark.parametrize(
    ("caption", "words", "prompt"),
    [
        ("a dog on grass", {"dog": "cat"}, "a cat on grass"),
        ("Dog on grass, a DOG", {"dog": "cat"}, "Cat on grass, a Cat"),
        ("dogs and hotdog", {"dog": "cat"}, None),
        ("a dog's bed, dog-house (dog)", {"dog": "cat"}, "a cat's bed, cat-house (cat)"),
        ("snake_dog dog2", {"dog": "cat"}, None),
        ("a red car, a car", {"car": "van", "red car": "blue bus"}, "a blue bus, a van"),
        ("a red\n  car", {"red car": "van"}, "a van"),
        ("a dog house, a dog", {"dog": "cat", "dog house": "shed"}, "a shed, a cat"),
        ("c++ and c, not c++11", {"c++": "rust"}, "rust and c, not c++11"),
        ("what? yes.", {"what?": "why?"}, "why? yes."),
        ("un éléphant, Éléphant", {"éléphant": "âne"}, "un âne, Âne"),
        ("cafe\u0301 cafe", {"cafe": "bar"}, "cafe\u0301 bar"),
        ("कीट क", {"क": "ख"}, "कीट ख"),
        ("草地上的狗", {"狗": "猫"}, "草地上的猫"),
        ("собака, собаки", {"собака": "кошка"}, "кошка, собаки"),
        ("photo of Tom", {"Tom": "a man"}, "photo of a man"),
        (r"a dog", {"dog": r"\1 {caption} \g<0>"}, r"a \1 {caption} \g<0>"),
    ],
)
def test_replace(caption: str, words: dict[str, str], prompt: str | None) -> None:
    assert replaced_by(caption, words) == prompt


def test_replacements_are_simultaneous() -> None:
    assert replaced("red fox, blue sky", red="blue", blue="red") == "blue fox, red sky"


def test_template() -> None:
    assert template("{caption}, {{in}} snow").rewrite("a {dog}") == "a {dog}, {in} snow"
    assert template("a cat").rewrite("a cat") is None
    assert template("{caption}").rewrite("anything") is None


def test_fan_out_names_and_parameters() -> None:
    edits = [
        Edit(name="snow", prompt="{caption}, snow", steps=20),
        Edit(name="breed", replace={"dog": ["cat", "fox"], "red": "blue"}, guidance_scale=5.0, strength=0.8),
    ]
    snow, cat, fox = variants(edits)
    assert [snow.name, cat.name, fox.name] == ["snow", "breed-cat", "breed-fox"]
    assert (snow.guidance_scale, snow.strength, snow.steps) == (None, None, 20)
    assert (fox.guidance_scale, fox.strength, fox.steps) == (5.0, 0.8, None)
    assert fox.rewrite("red dog") == "blue fox"


def test_product_of_lists_in_order() -> None:
    edit = Edit(name="e", replace={"dog": ["cat", "fox"], "red": ["blue", "dark green"]})
    assert [v.name for v in variants([edit])] == ["e-cat-blue", "e-cat-dark-green", "e-fox-blue", "e-fox-dark-green"]


def test_names_are_unique_and_given_names_kept() -> None:
    edits = [Edit(name="e", replace={"dog": ["cat", "Cat!", "狐", "狸"]}), Edit(name="e-cat", prompt="x")]
    assert [v.name for v in variants(edits)] == ["e-cat-2", "e-cat-3", "e-x", "e-x-2", "e-cat"]


def test_only_the_first_of_equal_prompts_is_kept_within_an_edit() -> None:
    fan = Edit(name="fan", replace={"dog": ["cat", "fox"], "red": ["blue", "green"]})
    again = Edit(name="again", replace={"dog": "cat"})
    found = prompts("a dog", {}, variants([fan, again]))
    assert [(v.name, prompt) for v, prompt in found] == [
        ("fan-cat-blue", "a cat"),
        ("fan-fox-blue", "a fox"),
        ("again", "a cat"),
    ]
    assert prompts("a bird", {}, variants([fan, again])) == []


def rewritten(caption: str, **fields: Any) -> str | None:
    (variant,) = variants([Edit(name="e", **fields)])
    return variant.rewrite(caption)


@pytest.mark.parametrize(
    ("regex", "caption", "prompt"),
    [
        ({"dog": "cat"}, "a dog, dogs", "a cat, cats"),
        ({r"\bdogs?\b": "cat"}, "a dog, dogs, hotdog", "a cat, cat, hotdog"),
        ({r"^an? (\w+) (\w+)$": r"\2, very \1"}, "a red dog", "dog, very red"),
        ({"(?i)RED": "blue"}, "Red", "blue"),
        ({r"\p{Han}+": "?"}, "雪 and ice", "? and ice"),
        ({"a": "b", "b": "c"}, "a b", "c c"),
        ({", .*": ""}, "a dog, in snow", "a dog"),
        ({"(?s).*": r"{caption} \\1"}, "x", r"{caption} \1"),
        ({"fox": "cat"}, "a dog", None),
        ({"(dog)": r"\1"}, "a dog", None),
    ],
)
def test_regex(regex: dict[str, str], caption: str, prompt: str | None) -> None:
    assert rewritten(caption, regex=regex) == prompt


def test_a_pattern_cannot_backtrack_forever() -> None:
    began = time.monotonic()
    assert rewritten("a" * 100_000 + "!", regex={"(a+)+$": "x", "(a|aa)*c": "y"}) is None
    assert time.monotonic() - began < 5


def test_prefix_and_suffix_are_literal() -> None:
    assert rewritten("a dog", prefix="a sketch of ", suffix=", {caption}") == "a sketch of a dog, {caption}"
    assert rewritten("a dog", suffix="!") == "a dog!"
    assert rewritten("", prefix=" ") == " "


def test_a_template_with_a_negative_prompt_edits_every_row() -> None:
    assert rewritten("a dog", prompt="{caption}", negative_prompt="blurry") == "a dog"
    assert rewritten("a dog", replace={"fox": "cat"}, negative_prompt="blurry") is None
    assert variants([Edit(name="e", prompt="x", negative_prompt="blurry")])[0].negative_prompt == "blurry"


def test_variants_can_be_pickled() -> None:
    sent = variants([Edit(name="a", prompt="{caption}!"), Edit(name="b", replace={"dog": ["cat", "fox"]})])
    received = pickle.loads(pickle.dumps(sent))
    assert received == sent
    assert prompts("dog", {}, received) == prompts("dog", {}, sent)


OLD, NEW, OTHER = (st.text(alphabet, min_size=1, max_size=4) for alphabet in ("abc", "xyz", "mno"))


@given(st.dictionaries(OLD, NEW, min_size=1, max_size=4), st.lists(OLD | OTHER, max_size=8))
def test_every_word_is_replaced_and_no_other(words: dict[str, str], caption: list[str]) -> None:
    expected = [words.get(word, word) for word in caption]
    assert replaced_by(" ".join(caption), words) == (None if expected == caption else " ".join(expected))


@given(st.permutations(["red", "blue", "dark red", "green"]), st.lists(st.sampled_from(["Red", "blue", "fox"])))
def test_a_permutation_is_undone_by_its_inverse(images: list[str], caption: list[str]) -> None:
    words = dict(zip(["red", "blue", "dark red", "green"], images, strict=True))
    text = ", ".join(caption)
    there = replaced_by(text, words) or text
    back = replaced_by(there, {new: old for old, new in words.items()}) or there
    assert back == text


@given(st.lists(OTHER), st.dictionaries(OLD, NEW, min_size=1, max_size=3))
def test_unrelated_captions_are_unchanged(caption: list[str], words: dict[str, str]) -> None:
    assert replaced_by(" ".join(caption), words) is None


WORD = st.from_regex(r"\A\S(.{0,8}\S)?\Z", fullmatch=True)


@given(st.lists(WORD, min_size=1, max_size=8, unique=True), st.lists(WORD, min_size=1, max_size=3, unique=True))
def test_names_are_unique_and_plain_for_any_words(dogs: list[str], reds: list[str]) -> None:
    names = [v.name for v in variants([Edit(name="e", replace={"dog": dogs, "red": reds})])]
    assert len(set(names)) == len(names) == len(dogs) * len(reds)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-") for name in names)

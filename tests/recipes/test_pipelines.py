"""Every pipeline with a recipe inverts and regenerates to the bit, in its own call, unmodified."""

from pathlib import Path

import pytest
import torch

from edict.determinism import make_deterministic
from edict.schedulers import BDIAScheduler, EDICTScheduler, LatticeScheduler, OBELMScheduler
from tests.recipes.__main__ import page
from tests.recipes.excluded import EXCLUDED
from tests.recipes.trial import recipes, round_trip

RECIPES = recipes()
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(autouse=True, scope="module")
def deterministic() -> None:
    make_deterministic()


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("name", RECIPES)
def test_a_round_trip_is_exact(name: str, dtype: torch.dtype) -> None:
    """Odd and even steps, guidance on and off, by each sampler; one network call per query."""
    for kind in (EDICTScheduler, BDIAScheduler, OBELMScheduler):
        trial = RECIPES[name](dtype)
        for steps, guided in ((3, True), (4, False)):
            found = round_trip(trial, kind, steps=steps, guided=guided, dtype=dtype)
            assert found.back == found.start, (kind.__name__, steps, guided)
            assert not torch.equal(found.noise.x, found.start.x)
            assert found.steps == expected_calls(kind, steps)
            assert [calls % count for calls, count in zip(found.calls, found.steps, strict=True)] == [0, 0]


def expected_calls(kind: type[LatticeScheduler], steps: int) -> tuple[int, int]:
    return (2 * steps, 2 * steps) if kind is EDICTScheduler else (steps, steps - 1)


def test_docs_pipelines_is_generated_from_the_recipes() -> None:
    written = (Path(__file__).parents[2] / "docs" / "pipelines.md").read_text()
    assert written == page(), "run `python -m tests.recipes > docs/pipelines.md`"
    assert not {name.partition(" ")[0] for name in RECIPES} & EXCLUDED.keys()

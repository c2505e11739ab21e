"""The schedulers of `edict` in a pipeline of diffusers with the shipped model: results, wrong use, configs."""

import pickle
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    DDIMScheduler,
    DiffusionPipeline,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
)

from edict import EDICT, BDIAScheduler, EDICTScheduler, LatticeOverflow, NonFinite, OBELMScheduler, Pair
from edict.checkpoint import DEFAULT
from edict.determinism import make_deterministic
from edict.schedulers import LatticeScheduler

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
PROMPTS = ["red heart", "a dog"]


@pytest.fixture(scope="module")
def pipe() -> Any:
    """Return the shipped model in a pipeline of diffusers."""
    make_deterministic()
    pipe = StableDiffusionPipeline.from_pretrained(str(DEFAULT), safety_checker=None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def latents(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 4, 16, 16, generator=torch.Generator().manual_seed(0))


def equipped(pipe: Any, kind: type[LatticeScheduler] = EDICTScheduler, **settings: Any) -> Any:
    """Give the pipeline a scheduler of this kind, made from the config of the shipped one."""
    pipe.scheduler = kind.from_config(DDIMScheduler.load_config(DEFAULT / "scheduler"), **settings)
    return pipe.scheduler


def run(pipe: Any, given: torch.Tensor, steps: int = 3, **call: Any) -> torch.Tensor:
    call = {"guidance_scale": 3.0, "output_type": "latent", **call}
    return pipe(PROMPTS, latents=given, num_inference_steps=steps, **call).images


@pytest.mark.parametrize(
    ("kind", "name"), [(EDICTScheduler, "edict"), (BDIAScheduler, "bdia"), (OBELMScheduler, "obelm")]
)
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_a_pipeline_call_gives_the_integers_of_the_direct_path(
    pipe: Any, model: EDICT, kind: type[LatticeScheduler], name: str, guidance_scale: float
) -> None:
    scheduler = equipped(pipe, kind)
    start = scheduler.encode(latents())
    run(pipe, scheduler.invert(start), guidance_scale=guidance_scale)
    noise = scheduler.pair
    direct = model.invert(start, PROMPTS, steps=3, guidance_scale=guidance_scale, sampler=name)
    assert noise == direct and noise.schedule == direct.schedule
    images = run(pipe, scheduler.generate(noise), guidance_scale=guidance_scale)
    assert scheduler.pair == start == model.generate(direct, PROMPTS, output_type="latent")
    assert torch.equal(images, start.to_float()[0].float()), "the pipeline returns the clean latents"


@pytest.mark.parametrize("kind", [EDICTScheduler, BDIAScheduler])
@pytest.mark.parametrize("strength", [0.5, 0.79])
def test_strength_inverts_the_last_steps(pipe: Any, kind: type[LatticeScheduler], strength: float) -> None:
    scheduler = equipped(pipe, kind)
    start = scheduler.encode(latents())
    run(pipe, scheduler.invert(start, strength=strength), steps=4)
    noise = scheduler.pair
    assert noise.schedule.num_steps == int(4 * strength)
    run(pipe, scheduler.generate(noise), steps=4)
    assert scheduler.pair == start


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_every_kind_of_prediction_is_exact(pipe: Any, prediction_type: str) -> None:
    """The network was trained on epsilon, so the noise is meaningless, but the round trip is exact."""
    pipe.scheduler = EDICTScheduler.from_config(DDIMScheduler(**BETAS, prediction_type=prediction_type).config)
    start = pipe.scheduler.encode(latents())
    run(pipe, pipe.scheduler.invert(start))
    noise = pipe.scheduler.pair
    run(pipe, pipe.scheduler.generate(noise))
    assert pipe.scheduler.pair == start != noise


def test_a_saved_pipeline_loads_its_scheduler(pipe: Any, tmp_path: Path) -> None:
    scheduler = equipped(pipe, p=0.95, bits=16)
    scheduler.save_pretrained(tmp_path / "scheduler")
    again = EDICTScheduler.from_pretrained(tmp_path / "scheduler")
    assert again.config.items() <= scheduler.config.items()
    assert (again.config.p, again.config.bits, again.config.beta_end) == (0.95, 16, scheduler.config.beta_end)
    pipe.save_pretrained(tmp_path / "pipe")
    loaded = DiffusionPipeline.from_pretrained(tmp_path / "pipe", safety_checker=None)
    loaded.set_progress_bar_config(disable=True)
    start = loaded.scheduler.encode(latents())
    run(loaded, loaded.scheduler.invert(start))
    run(pipe, scheduler.invert(start))
    assert loaded.scheduler.pair == scheduler.pair
    changed = EDICTScheduler.from_config(again.config, p=0.9)
    assert (changed.config.p, changed.config.base_scheduler) == (0.9, "DDIMScheduler")


@pytest.mark.parametrize(
    ("scheduler", "base"),
    [
        (PNDMScheduler(**BETAS, skip_prk_steps=True), "DDIMScheduler"),
        (EulerDiscreteScheduler(**BETAS, timestep_spacing="trailing"), "DDIMScheduler"),
        (UniPCMultistepScheduler(**BETAS), "DDIMScheduler"),
        (FlowMatchEulerDiscreteScheduler(shift=3.0), "FlowMatchEulerDiscreteScheduler"),
        (
            UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0),
            "UniPCMultistepScheduler",
        ),
    ],
)
def test_noise_levels_come_from_the_given_scheduler(scheduler: Any, base: str) -> None:
    made = EDICTScheduler.from_config(scheduler.config)
    assert made.config.base_scheduler == base
    kept = {**scheduler.config} if base != "DDIMScheduler" else {name: scheduler.config[name] for name in BETAS}
    assert {name: made.config[name] for name in kept if not name.startswith("_")} == {
        name: value for name, value in kept.items() if not name.startswith("_")
    }
    made.invert(made.encode(latents()))
    made.set_timesteps(4)
    if base != "DDIMScheduler":
        scheduler.set_timesteps(4)
        assert made.timesteps.tolist() == scheduler.timesteps.double().flip(0).repeat_interleave(2).tolist()


def test_noise_levels_of_cogvideox_are_shifted(pipe: Any) -> None:
    """Its checkpoints begin at pure noise, so an inversion leaves out the first step."""
    base = CogVideoXDDIMScheduler(
        **BETAS, snr_shift_scale=4.0, rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    pipe.scheduler = scheduler = BDIAScheduler.from_config(base.config)
    start = scheduler.encode(latents())
    run(pipe, scheduler.invert(start, strength=0.75), steps=4)
    noise = scheduler.pair
    run(pipe, scheduler.generate(noise), steps=4)
    assert scheduler.pair == start
    base.set_timesteps(4)
    assert noise.schedule.alphas_cumprod == (*base.alphas_cumprod[base.timesteps[1:]].double().tolist(), 1.0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (EDMEulerScheduler().config, "the config has no `_class_name`, and its settings are those of no supported"),
        ({"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler has noise levels of another kind"),
        (FlowMatchEulerDiscreteScheduler(stochastic_sampling=True).config, "stochastic_sampling: true"),
        (EulerDiscreteScheduler(**BETAS, timestep_type="continuous").config, "timestep_type: continuous"),
        (
            UniPCMultistepScheduler(use_flow_sigmas=True).config,
            "prediction_type of UniPCMultistepScheduler is 'epsilon': expected flow_prediction",
        ),
        (
            {"_class_name": "DDIMScheduler", "prediction_type": "xyz"},
            "prediction_type of DDIMScheduler is 'xyz': expected epsilon",
        ),
        ({"_class_name": "Unknown", "use_flow_sigmas": True}, "Unknown has noise levels of another kind"),
        (
            {"_class_name": "EulerDiscreteScheduler", "use_flow_sigmas": True, "prediction_type": "flow_prediction"},
            "prediction_type of EulerDiscreteScheduler is 'flow_prediction': expected epsilon",
        ),
        (DDIMScheduler(**BETAS), r"config is of type DDIMScheduler: give .*from_config\(pipe\.scheduler\.config\)"),
        (None, "config is of type NoneType"),
    ],
)
def test_a_scheduler_without_an_exact_inversion_is_an_error(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EDICTScheduler.from_config(config)


def test_settings_are_checked() -> None:
    config = DDIMScheduler(**BETAS).config
    with pytest.raises(ValueError, match=r"EDICTScheduler has no setting eta"):
        EDICTScheduler.from_config(config, eta=1.0)
    with pytest.raises(ValueError, match=r"p is 0\.4: expected at least 0\.5"):
        EDICTScheduler.from_config(config, p=0.4)
    with pytest.raises(ValueError, match="p is only valid for the sampler edict"):
        BDIAScheduler.from_config(config, p=0.9)
    with pytest.raises(ValueError, match=r"p is '0\.9': expected a number"):
        EDICTScheduler.from_config(config, p="0.9")
    with pytest.raises(ValueError, match="bits is '12': expected a whole number"):
        EDICTScheduler.from_config(config, bits="12")


def test_settings_of_numpy_can_be_saved(tmp_path: Path) -> None:
    config = DDIMScheduler(**BETAS).config
    EDICTScheduler.from_config(config, p=np.float32(0.75), bits=np.int64(13)).save_pretrained(tmp_path)
    loaded = EDICTScheduler.from_pretrained(tmp_path).config
    assert (loaded.p, loaded.bits) == (0.75, 13)


@pytest.mark.parametrize(
    "given",
    [
        latents().numpy(),
        [1.0],
        torch.empty(0, 4, 8, 8),
        torch.empty(2, 0),
        torch.randn(4),
        latents() + 0j,
        latents().long(),
    ],
    ids=lambda given: f"{type(given).__name__} {getattr(given, 'dtype', '')}",
)
def test_only_latents_can_be_encoded(given: Any) -> None:
    with pytest.raises(ValueError, match=r"latents is .*: expected a floating-point tensor \[N, \.\.\.\]"):
        EDICTScheduler.from_config(DDIMScheduler(**BETAS).config).encode(given)


FLOW = FlowMatchEulerDiscreteScheduler(shift=3.0).config
UNIPC_FLOW = UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction").config


@pytest.mark.parametrize("kind", [EDICTScheduler, BDIAScheduler, OBELMScheduler])
@pytest.mark.parametrize(
    ("config", "call", "message"),
    [
        (DDIMScheduler(**BETAS).config, {"num_inference_steps": 0}, "num_inference_steps is 0: expected a whole"),
        (FLOW, {"num_inference_steps": "50"}, "num_inference_steps is '50': expected a whole number"),
        (FLOW, {"num_inference_steps": 2.5}, r"num_inference_steps is 2\.5: expected a whole number"),
        (FLOW, {}, "num_inference_steps is None: expected a whole number"),
        (FLOW, {"sigmas": [1.0, 0.5, 0.5]}, r"the noise levels are 1, 0\.75, 0\.75, 0: expected finite ones"),
        (FLOW, {"sigmas": [0.5, 1.0]}, r"the noise levels are 0\.75, 1, 0: expected finite ones"),
        (FLOW, {"sigmas": [float("nan"), 1.0]}, "the noise levels are nan, 1, 0: expected finite ones"),
        (UNIPC_FLOW, {"timesteps": [900, 500]}, "UniPCMultistepScheduler takes no timesteps: give num_inference"),
        (
            {**FLOW, "use_dynamic_shifting": True},
            {"num_inference_steps": 3},
            "use_dynamic_shifting: true, and the pipeline gives no mu",
        ),
        ({**FLOW, "shift_terminal": 0.02}, {"num_inference_steps": 1}, "steps is 1.*shift_terminal: 0.02.*at least 2"),
        ({**FLOW, "shift_terminal": 0.02}, {"sigmas": [1.0]}, "steps is 1.*shift_terminal: 0.02.*at least 2"),
    ],
)
def test_the_steps_of_a_call_are_checked(
    kind: type[LatticeScheduler], config: Any, call: dict[str, Any], message: str
) -> None:
    scheduler = kind.from_config(config)
    scheduler.invert(scheduler.encode(latents()))
    with pytest.raises(ValueError, match=message):
        scheduler.set_timesteps(**call)


def test_sigmas_of_a_call_can_be_a_list() -> None:
    made, flow = EDICTScheduler.from_config(UNIPC_FLOW), UniPCMultistepScheduler.from_config(UNIPC_FLOW)
    made.invert(made.encode(latents()))
    made.set_timesteps(sigmas=[1.0, 0.5])
    flow.set_timesteps(sigmas=np.array([1.0, 0.5]))
    assert made.timesteps.tolist() == flow.timesteps.double().flip(0).repeat_interleave(2).tolist()


def test_a_fixed_shift_replaces_dynamic_shifting() -> None:
    """This is for pipelines that give mu only to FlowMatchEulerDiscreteScheduler."""
    dynamic = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    sigmas = np.linspace(1.0, 0.25, 4)
    dynamic.set_timesteps(sigmas=sigmas, mu=0.8)
    made = EDICTScheduler.from_config(dynamic.config, use_dynamic_shifting=False, shift=float(np.exp(0.8)))
    made.invert(made.encode(latents()))
    made.set_timesteps(sigmas=sigmas)
    assert torch.allclose(made.timesteps[::2].flip(0), dynamic.timesteps)


@pytest.mark.parametrize(
    "name",
    [
        "CogVideoXDDIMScheduler",
        "EulerDiscreteScheduler",
        "FlowMatchHeunDiscreteScheduler",
        "LCMScheduler",
        "PNDMScheduler",
        "UniPCMultistepScheduler",
    ],
)
def test_omitted_settings_are_those_of_the_named_scheduler(name: str) -> None:
    whole = {**getattr(diffusers, name)().config, "_class_name": name}
    assert EDICTScheduler.from_config({"_class_name": name}).config == EDICTScheduler.from_config(whole).config


def test_a_pipeline_can_replace_the_config(pipe: Any) -> None:
    """StableDiffusionPipeline does so: it sets steps_offset to 1."""
    given = EDICTScheduler.from_config(DDIMScheduler(**{**BETAS, "steps_offset": 0}).config)
    pipe = StableDiffusionPipeline(**{**pipe.components, "scheduler": given}, requires_safety_checker=False)
    assert pipe.scheduler.config.steps_offset == 1
    given.register_to_config(p=0.75, set_alpha_to_one=False)
    for scheduler in (given, EDICTScheduler.from_config(given.config)):
        scheduler.invert(scheduler.encode(latents()))
        scheduler.set_timesteps(2)
        assert scheduler.timesteps.tolist() == [1, 1, 501, 501]
        assert scheduler.integration.pair.sampling.p == 0.75
        assert scheduler.integration.pair.schedule.alphas_cumprod[-1] < 1


def test_a_round_trip_in_float64_is_exact(pipe: Any) -> None:
    pipe = deepcopy(pipe).to(torch.float64)
    scheduler = equipped(pipe, bits=40)
    start = scheduler.encode(latents().double())
    run(pipe, scheduler.invert(start).double())
    noise = scheduler.pair
    run(pipe, scheduler.generate(noise).double())
    assert scheduler.pair == start != noise


def test_zero_terminal_snr_is_an_error(pipe: Any) -> None:
    config = DDIMScheduler(**BETAS, rescale_betas_zero_snr=True, timestep_spacing="trailing").config
    pipe.scheduler = EDICTScheduler.from_config(config)
    given = pipe.scheduler.invert(pipe.scheduler.encode(latents()))
    with pytest.raises(ValueError, match="begin at pure noise"):
        run(pipe, given)


def test_wrong_use_is_an_error(pipe: Any) -> None:
    scheduler = equipped(pipe)
    with pytest.raises(RuntimeError, match=r"no pair is armed: give the pipeline latents=pipe\.scheduler\.invert"):
        run(pipe, latents())
    with pytest.raises(RuntimeError, match=r"the run has not ended \(no step was made\)"):
        _ = scheduler.pair
    start = scheduler.encode(latents())
    with pytest.raises(ValueError, match="the pair is clean: give `generate` a noise pair"):
        scheduler.generate(start)
    with pytest.raises(ValueError, match="pair is of type Tensor: expected a Pair"):
        scheduler.invert(latents())
    for strength in (0, "0.5", None):
        with pytest.raises(ValueError, match=f"strength is {strength!r}: expected a number above 0"):
            scheduler.invert(start, strength=strength)
    with pytest.raises(ValueError, match=r"1 steps at strength 0\.5 execute no step"):
        run(pipe, scheduler.invert(start, strength=0.5), steps=1)
    run(pipe, scheduler.invert(start))
    noise = scheduler.pair
    with pytest.raises(ValueError, match="give `invert` a clean pair"):
        scheduler.invert(noise)
    with pytest.raises(ValueError, match="the pair is of the sampler edict, and BDIAScheduler is for bdia"):
        BDIAScheduler.from_config(scheduler.config).generate(noise)
    given = scheduler.generate(noise)
    with pytest.raises(RuntimeError, match=r"the run has not ended \(no step was made\)"):
        _ = scheduler.pair
    with pytest.raises(RuntimeError, match="step was called without a run"):
        scheduler.step(given, 1, given)
    with pytest.raises(RuntimeError, match="no pair is armed"):
        run(pipe, scheduler.generate(noise))
        run(pipe, latents())
    with pytest.raises(RuntimeError, match="step was called without a run"):
        scheduler.step(latents(), 1, latents())
    with pytest.raises(RuntimeError, match="does not add random noise"):
        scheduler.add_noise(latents(), latents(), torch.tensor([1]))


def test_a_call_with_other_arguments_than_the_inversion_is_an_error() -> None:
    config = DDIMScheduler(**BETAS).config
    scheduler = EDICTScheduler.from_config(config)
    scheduler.invert(scheduler.encode(latents()), strength=0.8)
    scheduler.set_timesteps(5)
    noise = replace(scheduler.integration.pair, position=0)
    message = r"inverted with 5 steps \(strength 0\.8\), and this call has {}: give num_inference_steps=5"
    for steps in (3, 6, 2000):
        scheduler.generate(noise)
        with pytest.raises(ValueError, match=message.format(steps)):
            scheduler.set_timesteps(steps)
    for other, message in (
        ({"steps_offset": 0}, "inverted at other noise levels than those of this call, both of 5 steps"),
        ({"set_alpha_to_one": False}, r"final cumulative alpha of 1, and the scheduler's is 0\.99915"),
    ):
        changed = EDICTScheduler.from_config(config, **other)
        changed.generate(noise)
        with pytest.raises(ValueError, match=message):
            changed.set_timesteps(5)
    changed.invert(scheduler.encode(latents()))
    with pytest.raises(ValueError, match=message + ": encode the latents by this scheduler"):
        changed.set_timesteps(5)


def test_pairs_pass_between_the_model_and_a_pipeline(pipe: Any, model: EDICT) -> None:
    scheduler = equipped(pipe)
    start = scheduler.encode(latents())
    run(pipe, scheduler.invert(replace(start, batch_size=1)))
    noise = scheduler.pair
    assert noise.batch_size == 2
    with pytest.raises(ValueError, match="the guidance scale of the noise pair is unknown"):
        model.generate(noise, PROMPTS)
    assert repr(noise).endswith("guidance_scale=unknown)")
    assert model.generate(noise, PROMPTS, guidance_scale=3.0, output_type="latent") == start
    ones = model.invert(start, PROMPTS, steps=3, batch_size=1)
    for refused in (noise[:1], ones):
        with pytest.raises(ValueError, match=r"inverted in batches of \d, .*: generate all \d samples of a batch"):
            scheduler.generate(refused)
    for i, prompt in enumerate(PROMPTS):
        given = scheduler.generate(ones[i])
        pipe(prompt, latents=given, num_inference_steps=3, guidance_scale=3.0, output_type="latent")
        assert scheduler.pair == start[i]
    partly = model.invert(start, PROMPTS, steps=3, guidance_interval=[0.0, 2.0])
    with pytest.raises(
        ValueError, match=r"guidance_interval=\[0\.0, 2\.0\], which the call of a pipeline does not have"
    ):
        scheduler.generate(partly)


def test_a_refused_call_leaves_no_pair(pipe: Any) -> None:
    """A user would take the pair for the result of the call."""
    scheduler = equipped(pipe)
    start = scheduler.encode(latents())
    run(pipe, scheduler.invert(start))
    noise = scheduler.pair

    def generate() -> None:
        run(pipe, scheduler.generate(noise))

    for refused in (
        lambda: scheduler.generate(start),
        lambda: scheduler.invert(noise),
        lambda: scheduler.invert(start, strength=2),
        lambda: run(pipe, latents()),
        lambda: scheduler.step(latents(), 1, latents()),
        lambda: run(pipe, scheduler.generate(noise), steps=4),
    ):
        generate()
        assert scheduler.pair == start
        with pytest.raises((ValueError, RuntimeError)):
            refused()
        with pytest.raises(RuntimeError, match="the run has not ended"):
            _ = scheduler.pair


def test_another_batch_is_an_error(pipe: Any) -> None:
    scheduler = equipped(pipe)
    given = scheduler.invert(scheduler.encode(latents(4)))
    scheduler.set_timesteps(3)
    with pytest.raises(ValueError, match=r"the pair is \[4, 4, 16, 16\], the pipeline's latents are \[2, 4, 16, 16\]"):
        scheduler.step(given[:2], scheduler.timesteps[0], given[:2])


def test_latents_that_the_pipeline_changes_are_an_error(pipe: Any) -> None:
    """A callback changes the latents between steps, as inpainting does."""
    scheduler = equipped(pipe)
    start = scheduler.encode(latents())

    def change(pipe: Any, step: int, timestep: int, tensors: dict[str, Any]) -> dict[str, Any]:
        return {"latents": tensors["latents"] + (step == 1)}

    with pytest.raises(RuntimeError, match="the pipeline changed the latents between two steps"):
        run(pipe, scheduler.invert(start), callback_on_step_end=change)
    with pytest.raises(RuntimeError, match="the pipeline changed the latents between two steps"):
        _ = scheduler.pair
    scheduler.invert(start)
    with pytest.raises(RuntimeError, match="did not get the latents that `invert` or `generate` returned"):
        pipe(PROMPTS, num_inference_steps=3, output_type="latent", generator=torch.Generator().manual_seed(0))
    with pytest.raises(RuntimeError, match="did not get the latents"):
        run(pipe, scheduler.invert(start).half().float())
    sample = scheduler.invert(start)
    scheduler.set_timesteps(3)
    *first, last = scheduler.timesteps.flip(0)
    for timestep in first:
        sample = scheduler.step(sample, timestep, sample).prev_sample
    with pytest.raises(RuntimeError, match=r"called `step` out of order"):
        scheduler.step(sample, last, sample)


@pytest.mark.parametrize(("kind", "steps"), [(BDIAScheduler, 1), (OBELMScheduler, 1)])
def test_an_inversion_without_generation_steps_is_an_error(pipe: Any, kind: type[LatticeScheduler], steps: int) -> None:
    """The first step of the inversion calls the network, but no step of the generation does."""
    scheduler = equipped(pipe, kind)
    with pytest.raises(ValueError, match="calls the network: use more steps"):
        run(pipe, scheduler.invert(scheduler.encode(latents())), steps=steps)


def test_a_scheduler_can_be_copied_after_a_run(pipe: Any) -> None:
    scheduler = equipped(pipe)
    run(pipe, scheduler.invert(scheduler.encode(latents())))
    assert deepcopy(scheduler).pair == pickle.loads(pickle.dumps(scheduler)).pair == scheduler.pair


def test_from_config_takes_the_most_recent_scheduler() -> None:
    """diffusers keeps the settings of the scheduler before in the config of the next one."""
    flow: Any = UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
    config = EDICTScheduler.from_config(flow.config).config
    other: Any = FlowMatchEulerDiscreteScheduler.from_config(config, shift=7.0)
    made = EDICTScheduler.from_config(other.config)
    assert (made.config.base_scheduler, made.config.shift) == ("FlowMatchEulerDiscreteScheduler", 7.0)
    assert BDIAScheduler.from_config(made.config).config.base_scheduler == "FlowMatchEulerDiscreteScheduler"


def test_an_interrupted_run_has_no_pair(pipe: Any) -> None:
    scheduler = equipped(pipe)

    def stop(pipe: Any, step: int, timestep: int, tensors: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = step >= 1
        return {}

    run(pipe, scheduler.invert(scheduler.encode(latents())), callback_on_step_end=stop)
    with pytest.raises(RuntimeError, match=r"the run has not ended \(2 of 6 calls were made\)"):
        _ = scheduler.pair


def test_faults_of_the_network_are_named(pipe: Any) -> None:
    scheduler = equipped(pipe)
    for value, error in ((float("nan"), NonFinite), (1e30, LatticeOverflow)):
        sample = scheduler.invert(scheduler.encode(latents()))
        scheduler.set_timesteps(2)
        with pytest.raises(error) as caught:
            for timestep in scheduler.timesteps:
                output = sample.clone()
                output[1, 0, 0, 0] = value
                sample = scheduler.step(output, timestep, sample, return_dict=False)[0]
        assert caught.value.__notes__ == ["sample 1 of 2"]


def test_pairs_are_compared_by_their_integers() -> None:
    scheduler = EDICTScheduler.from_config(DDIMScheduler(**BETAS).config)
    one, other = scheduler.encode(latents()), scheduler.encode(latents())
    assert one == other and one != "a pair"
    other.y[0, 0, 0, 0] += 1
    assert one != other
    assert one != scheduler.encode(latents(1))
    assert one != EDICTScheduler.from_config(scheduler.config, bits=13).encode(latents())
    assert isinstance(one, Pair)

"""Models that predict noise, with a noise schedule."""

from pathlib import Path

import torch

from edict.errors import ModelError
from edict.models.direct import DirectModel
from edict.schedule import (
    NOISE_SCHEDULERS,
    Schedule,
    alphas_cumprod,
    final_alpha,
    noise_of_velocity,
    noise_schedule,
)
from schemas.sampling import Sampling

DIRECT_PREDICTIONS = ("epsilon", "v_prediction")


class NoiseModel(DirectModel):
    """A model with a noise schedule that predicts epsilon or v (Salimans & Ho, 2202.00512)."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.check_scheduler(
            NOISE_SCHEDULERS, "If the network was trained with betas, name a DDIMScheduler with its betas there"
        )
        if self.scheduler_config.get("use_flow_sigmas"):
            raise ModelError(
                f"model {folder}: its scheduler has use_flow_sigmas: true, so its network was trained on a flow, and "
                f"a {type(self).__name__} predicts noise. Set it to false if the network predicts noise"
            )
        self.prediction_type = self.scheduler_config.get("prediction_type", "epsilon")
        if self.scheduler_config.get("timestep_type") == "continuous" and self.prediction_type == "v_prediction":
            raise ModelError(
                f"model {folder}: its scheduler has timestep_type: continuous, so its network was trained on the "
                "logarithms of noise levels, which is not supported. Use a checkpoint that was trained on timesteps"
            )
        if self.prediction_type not in DIRECT_PREDICTIONS:
            raise ModelError(
                f"model {folder} predicts {self.prediction_type!r} (prediction_type of its scheduler); only "
                f"{' and '.join(DIRECT_PREDICTIONS)} are supported. Use a checkpoint that predicts one of them"
            )
        try:
            self._alphas = alphas_cumprod(self.scheduler_config)
        except (NotImplementedError, TypeError, ValueError) as error:
            named = self.scheduler_config.get("beta_schedule")
            raise ModelError(
                f"model {folder}: the betas of its scheduler cannot be made (beta_schedule: {named}). Use "
                "linear, scaled_linear, squaredcos_cap_v2 or trained_betas"
            ) from error

    def schedule(self, sampling: Sampling) -> Schedule:
        return noise_schedule(self.scheduler_config, sampling.steps, sampling.strength, sampling.steps_offset)

    def clean_end(self) -> Schedule:
        return Schedule((), (final_alpha(self.scheduler_config),))

    def noise(self, predicted: torch.Tensor, latents: torch.Tensor, timestep: float) -> torch.Tensor:
        """Return the noise in the network's prediction, float32, or float64 for v-prediction.

        For v-prediction it is sqrt(alpha) v + sqrt(1 - alpha) x, with the alpha of `timestep`.
        """
        if self.prediction_type == "epsilon":
            return predicted.float()
        alpha = float(self._alphas[int(timestep)])
        return noise_of_velocity(predicted, latents, alpha)

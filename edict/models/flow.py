"""Models that predict the velocity of a flow (Liu et al., 2209.03003): x' = x + (sigma' - sigma) * velocity."""

from pathlib import Path

from edict.errors import ModelError
from edict.models.direct import DirectModel
from edict.schedule import FLOW_END, Schedule


class FlowModel(DirectModel):
    """A model with the sigmas of FlowMatchEulerDiscreteScheduler. Its timesteps are floats, sigma * 1000."""

    denoiser = "transformer"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        advice = (
            "Name a FlowMatchEulerDiscreteScheduler there, with the checkpoint's shift (other schedulers call it "
            "flow_shift)"
        )
        self.check_scheduler({"FlowMatchEulerDiscreteScheduler"}, advice)
        if self.scheduler_config.get("invert_sigmas"):
            raise ModelError(
                f"model {folder}: its scheduler has invert_sigmas: true, which is not supported. Use one without it"
            )

    def clean_end(self) -> Schedule:
        return FLOW_END

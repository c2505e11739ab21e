"""Models that predict the velocity of a flow (Liu et al., 2209.03003): x' = x + (s' - s) v, additive as it is."""

from edict.models.model import Model
from edict.schedule import FLOW_END, Schedule


class FlowModel(Model):
    """A model with FlowMatchEulerDiscreteScheduler's sigmas; its timesteps are floats, sigma * 1000."""

    denoiser = "transformer"

    def clean(self) -> Schedule:
        return FLOW_END

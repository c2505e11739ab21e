"""A check that the loop of a pipeline does not change the latents between the steps of a scheduler."""

import torch

HALF_DTYPES = (torch.bfloat16, torch.float16)


class LatentsCheck:
    """A record of whether a pipeline gave a scheduler the latents that the scheduler returned before.

    Some pipelines round the latents to the dtype of their network and give them back in float32 (Mochi). So the record
    has one flag per rounding: none, bfloat16 and float16. It stays on the device, because a step must not wait for it.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._unchanged = torch.ones(1 + len(HALF_DTYPES), dtype=torch.bool, device=device)

    def observe(self, sample: torch.Tensor, expected: torch.Tensor, in_order: torch.Tensor) -> None:
        """Compare latents with the expected ones, in the same dtype. `in_order` is a bool: the timestep is right."""
        roundings = (sample.dtype, *HALF_DTYPES)
        same = torch.stack([(sample == expected.to(dtype).to(sample.dtype)).all() for dtype in roundings])
        self._unchanged = self._unchanged & same & in_order

    def raise_if_changed(self) -> None:
        """Wait for the device, and check the record.

        Raises:
            RuntimeError: The pipeline changed the latents.
        """
        if not bool(self._unchanged.any()):
            raise RuntimeError(
                "the pipeline changed the latents between two steps, called `step` out of order, or did not get the "
                "latents that `invert` or `generate` returned, so the run is not exact. Use a pipeline whose loop only "
                "denoises: no inpainting, no refiner, no callback that changes latents"
            )

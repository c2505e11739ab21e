"""Records of jobs in earlier formats of job.json."""

from typing import Any

from edict.samplers import parameters
from edict.schedule import Schedule
from schemas.job import JobRecord


def as_format_2(record: JobRecord, schedule: Schedule) -> dict[str, Any]:
    """Return the record of an inversion in format 2, whose fingerprint had the schedule and a weight as "93/100"."""
    made = record.inversion
    fingerprint = made.model_dump(exclude_defaults=True, exclude={"sampling", "pipeline"})
    fingerprint |= {
        "sampler": made.sampling.name,
        "steps": made.sampling.steps,
        "strength": made.sampling.strength,
        "timesteps": list(schedule.timesteps),
        "alphas_cumprod": list(schedule.alphas_cumprod),
        "guidance_scale": made.sampling.guidance_scale,
        **{name: str(value) for name, value in parameters(made.sampling).items()},
        "bits": made.sampling.bits,
    }
    if schedule.sigmas is not None:
        fingerprint["sigmas"] = list(schedule.sigmas)
    if made.sampling.guidance_interval is not None:
        fingerprint["guidance_interval"] = made.sampling.guidance_interval
    job = record.model_dump(exclude={"variants_per_row", "rows"})
    return job | {"format": 2, "fingerprint": fingerprint}

"""The two job specs, `invert` and `edit`: every field with its bounds and its default.

Types are strict (the text "50" is not a number) and unknown fields are errors, so that a typing error in a spec never
becomes a default.
"""

from schemas.specs.control import ControlSpec, MaskSpec
from schemas.specs.edit_job import EditImages, EditSpec, SampleSpec
from schemas.specs.fields import Dtype
from schemas.specs.image import ImageSpec
from schemas.specs.invert_job import InvertSpec
from schemas.specs.job import KINDS, JobSpec, json_schema
from schemas.specs.model import LoRASpec, ModelSpec
from schemas.specs.prompt_edit import MAX_VARIANTS, Edit
from schemas.specs.rejects import RejectsSpec
from schemas.specs.sampler import SamplerSpec
from schemas.specs.workers import EditWorkers, Workers, WorkerSpec

__all__ = [
    "KINDS",
    "MAX_VARIANTS",
    "ControlSpec",
    "Dtype",
    "Edit",
    "EditImages",
    "EditSpec",
    "EditWorkers",
    "ImageSpec",
    "InvertSpec",
    "JobSpec",
    "LoRASpec",
    "MaskSpec",
    "ModelSpec",
    "RejectsSpec",
    "SampleSpec",
    "SamplerSpec",
    "WorkerSpec",
    "Workers",
    "json_schema",
]

"""The import path of the workers of a Ray job."""

from ray.job_config import JobConfig


class CleanPathJobConfig(JobConfig):
    """A Ray job whose workers import only packages that are installed on their node.

    By default, Ray puts the folder of the driver's script and its working directory first on the workers' path.
    A user's `pipeline.py` or `datasets/` there would replace a module of this package or of its dependencies.
    """

    def _serialize(self) -> str:
        self._py_driver_sys_path.clear()
        return super()._serialize()

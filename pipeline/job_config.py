"""What workers of a Ray job may import."""

from ray.job_config import JobConfig


class CleanPathJobConfig(JobConfig):
    """A job of Ray whose workers import only what is installed on their node.

    By default, Ray puts the folder of the driver's script and its working directory before all else on the workers'
    path. A user's `pipeline.py` or `datasets/` there would replace a module of this package or of its dependencies.
    """

    def _serialize(self) -> str:
        self._py_driver_sys_path.clear()
        return super()._serialize()

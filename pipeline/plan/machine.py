"""Notes about the machine that a job runs on."""

import sys

from pipeline.messages import Machine, machine_for


def machine_like(stored: Machine, gpus: float | None, action: str) -> Machine:
    """Return the machine for the rows of a store: the one that made them, unless a number of `gpus` is given.

    A note on stderr says if the device is another one. `action` is what is done to the rows there, such as "edited".
    """
    machine = stored if gpus is None else machine_for(gpus)
    if machine.device != stored.device:
        print(
            f"note: inverted on {stored.device}, {action} on {machine.device}: the results are close, not exact",
            file=sys.stderr,
        )
    return machine


def note_float16(dtype: str, gpus: float) -> None:
    """Print a note on stderr if a network in float16 runs on a CPU."""
    if dtype == "float16" and not gpus:
        print(
            "note: a network in float16 takes a CPU 18 to 33 times as long as one in float32 (python -m "
            "benchmarks.network). Use float16 on GPUs only",
            file=sys.stderr,
        )

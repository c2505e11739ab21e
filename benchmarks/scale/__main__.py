"""Cost of large jobs: the driver's scheduling, the store of a million units, and memory over a long run."""

from benchmarks.harness import run
from benchmarks.scale.driver import driver
from benchmarks.scale.memory import memory
from benchmarks.scale.store import store

run(__doc__, driver, store, memory)

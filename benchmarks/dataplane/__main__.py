"""Speed of moving data: reading and decoding images, encoding and writing results."""

from benchmarks.dataplane.overlap import overlap
from benchmarks.dataplane.stages import stages
from benchmarks.dataplane.writing import writing
from benchmarks.harness import run

run(__doc__, stages, overlap, writing)

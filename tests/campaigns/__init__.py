"""Programs that search for faults: kills, power cuts, interleavings, rejected samples and the ends of commands."""

from pathlib import Path

RESULTS = Path(__file__).parent / "results"

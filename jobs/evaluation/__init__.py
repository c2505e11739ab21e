"""Measurements: the paper's Table 1, edits against their ground truth, and PIE-Bench. `edict eval`."""

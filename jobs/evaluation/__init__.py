"""Measurements of `edict eval`: the paper's Table 1, edits against their ground truth, and PIE-Bench."""

"""Means with bootstrap confidence intervals."""

import numpy as np

RESAMPLES = 10_000

Interval = tuple[float, float, float]
"""A mean and the lower and upper end of its 95% confidence interval."""


def mean_interval(values: np.ndarray, groups: np.ndarray | None = None) -> Interval:
    """Return the mean of `values` [N] and its 95% bootstrap interval. The seed is fixed, and nan values are left out.

    Values with the same label in `groups` [N] are not independent, so they are resampled together. Without `groups`,
    every value is a group of its own.
    """
    valid = ~np.isnan(values)
    if not valid.any():
        return float("nan"), float("nan"), float("nan")
    values, groups = values[valid], np.arange(len(values))[valid] if groups is None else groups[valid]
    _, group_of = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(group_of, values), np.bincount(group_of)
    resampled = np.random.default_rng(0).integers(len(sums), size=(RESAMPLES, len(sums)))
    low, high = np.percentile(sums[resampled].sum(1) / counts[resampled].sum(1), (2.5, 97.5))
    return float(values.mean()), float(low), float(high)


def format_interval(values: Interval) -> str:
    """Return a mean and its interval as text, such as 0.0675 [0.0557, 0.0794]."""
    return "{:.4f} [{:.4f}, {:.4f}]".format(*values)

"""Plackett-Burman designs, and the effects of their factors."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

# First rows (Plackett and Burman 1946); the others are shifted cyclically, and the last has no
# factor on.
_FIRST_ROWS = (
    "++-+++---+-",
    "++--++++-+-+----++-",
    "+++++-+-++--++--+-+----",
)
# Columns without a factor: the least that tell noise from effects where no run is repeated.
_SPARE_COLUMNS = 3


class Effect(NamedTuple):
    """Estimated effect of a factor: the difference it makes, averaged over the other factors.

    Attributes:
      mean: least-squares estimate.
      error: its standard error; NaN where no degree of freedom is left.
    """

    mean: float
    error: float


def plackett_burman(factors: Sequence[str], is_mirrored: bool = False) -> list[tuple[str, ...]]:
    """Return the runs of a two-level design, as the factors that are on in each.

    Each factor is on in half of the runs, and each pair in a quarter. An interaction of two factors
    distorts the effects of others; with the mirrored runs added it does not.

    Args:
      factors: at most 20 names.
      is_mirrored: whether each factor is on where it otherwise is off. Default False.

    Raises:
      ValueError: if there are more factors than any design has room for.
    """
    for first in _FIRST_ROWS:
        if len(factors) + _SPARE_COLUMNS <= len(first):
            break
    else:
        raise ValueError(f"{len(factors)} factors are more than {len(first) - _SPARE_COLUMNS}")
    signs = [first[-shift:] + first[:-shift] for shift in range(len(first))] + ["-" * len(first)]
    on = "-" if is_mirrored else "+"
    return [tuple(f for f, sign in zip(factors, row) if sign == on) for row in signs]


def effects(
    factors: Sequence[str], runs: Sequence[Iterable[str]], values: Sequence[float]
) -> dict[str, Effect]:
    """Estimate the effect of each factor by least squares, from any part of a design.

    Args:
      factors: names of all factors that are on in a run.
      runs: the factors that are on, for each run.
      values: what was measured, for each run.

    Returns:
      {factor: effect}, empty while the runs cannot tell all factors apart.
    """
    on = [set(run) for run in runs]
    matrix = np.array([[1.0, *(factor in run for factor in factors)] for run in on])
    if len(runs) <= len(factors) or np.linalg.matrix_rank(matrix) <= len(factors):
        return {}
    covariance = np.linalg.inv(matrix.T @ matrix)
    estimates = covariance @ matrix.T @ np.asarray(values)
    freedom = len(runs) - len(factors) - 1
    residuals = np.asarray(values) - matrix @ estimates
    variance = residuals @ residuals / freedom if freedom else np.nan
    errors = np.sqrt(variance * np.diag(covariance))
    return {
        factor: Effect(float(mean), float(error))
        for factor, mean, error in zip(factors, estimates[1:], errors[1:], strict=True)
    }

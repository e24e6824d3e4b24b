"""Class-balanced loss weights: inverse frequency or effective number of samples."""

import numpy as np

from efficientdet_tf.config import LossConfig
from efficientdet_tf.data.records import DetectionData
from efficientdet_tf.data.statistics import count_objects

# Cui et al. 2019: beyond about 1 / (1 - beta) objects, additional ones add little.
_BETA = 0.999


def class_weights(kind: str, counts: np.ndarray) -> np.ndarray:
    """Compute a weight for each class, with mean 1 over all objects.

    Args:
      kind: "inverse": in inverse proportion to the number of objects, so that all
        classes have the same total weight; "effective": to the effective
        number, (1 - beta ** n) / (1 - beta) with beta 0.999 (Cui et al. 2019,
        "Class-Balanced Loss Based on Effective Number of Samples", equation 2).
      counts: int [classes], objects of each class; a class without objects has the weight 1.

    Returns:
      float64 [classes], positive.

    Raises:
      ValueError: for another kind.
    """
    counts = np.asarray(counts, np.float64)
    if kind == "inverse":
        numbers = counts
    elif kind == "effective":
        numbers = (1 - _BETA**counts) / (1 - _BETA)
    else:
        raise ValueError(f"kind: {kind!r} is neither 'inverse' nor 'effective'")
    seen = counts > 0
    weights = np.divide(1.0, numbers, out=np.ones_like(counts), where=seen)
    weights[seen] *= counts.sum() / (counts * weights)[seen].sum() if seen.any() else 1.0
    return weights


def settings(config: LossConfig, data: DetectionData) -> dict[str, tuple[float, ...]]:
    """Compute the class weights of a training set, as overrides for `Config`.

    Args:
      config: loss settings; with `class_weights` "none", given weights stay unchanged.
      data: training set.

    Returns:
      {"loss.class_weight_values": weights}, or {} with "none".
    """
    if config.class_weights == "none":
        return {}
    weights = class_weights(config.class_weights, count_objects(data))
    # Six digits keep config.yaml readable.
    return {"loss.class_weight_values": tuple(float(f"{weight:.6g}") for weight in weights)}

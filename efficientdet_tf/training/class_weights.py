"""Weights that let rare classes count as much as common ones."""

import numpy as np

from efficientdet_tf.config import LossConfig
from efficientdet_tf.data.records import DetectionData
from efficientdet_tf.data.statistics import count_objects

# Cui et al. 2019: from about 1 / (1 - beta) objects on, more of them tell little new.
_BETA = 0.999


def class_weights(kind: str, counts: np.ndarray) -> np.ndarray:
    """A weight for each class, whose mean over all objects is 1.

    Args:
      kind: "inverse" is in inverse proportion to the number of objects, so that
        all classes weigh the same together; "effective" to their effective
        number, (1 - beta ** n) / (1 - beta) with beta 0.999 (Cui et al. 2019,
        "Class-Balanced Loss Based on Effective Number of Samples", equation 2).
      counts: int [classes], objects; a class without any has the weight 1.

    Returns:
      float64 [classes], above 0.

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
    """What `loss.class_weights` makes of a training set, as overrides for `Config`.

    Args:
      config: with "none", weights that were given stay as they are.
      data: of the training.
    """
    if config.class_weights == "none":
        return {}
    weights = class_weights(config.class_weights, count_objects(data))
    # Six digits: they are read by people, in config.yaml.
    return {"loss.class_weight_values": tuple(float(f"{weight:.6g}") for weight in weights)}

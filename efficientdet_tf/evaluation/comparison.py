"""Comparison of two detectors on the same images, with bootstrap intervals."""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

from efficientdet_tf.data.records import DetectionData
from efficientdet_tf.evaluation.detection_arrays import DetectionArrays
from efficientdet_tf.evaluation.matching import Matcher
from efficientdet_tf.evaluation.resampling import ResampledPrecision

# Resamples at a time: limits memory.
_AT_ONCE = 50
# Thresholds of `IOU_THRESHOLDS` that a metric averages.
_METRICS = {"AP": slice(None), "AP50": slice(0, 1), "AP75": slice(5, 6)}
_PERCENTILES = (2.5, 97.5)
# Fewest images whose resamples tell how much others like them would differ.
FEWEST_IMAGES = 10


@dataclasses.dataclass(frozen=True)
class Compared:
    """A metric of two detectors.

    Attributes:
      first, second: its values, 0..1; NaN without objects.
      low, high: 95 % interval of first - second: percentiles 2.5 and 97.5 of the resamples; NaN
        with fewer than `FEWEST_IMAGES` images with objects.
    """

    first: float
    second: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        """First minus second."""
        return self.first - self.second

    @property
    def has_interval(self) -> bool:
        """Whether there are enough images for an interval."""
        return not math.isnan(self.low)

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Metrics of two detectors on the same images.

    Attributes:
      against: name of the second detector.
      metrics: {"AP", "AP50", "AP75": values}.
      classes: {class name: AP}, of the classes with objects.
      num_images: number of images.
      resamples: number of resamples, each of as many images, drawn with replacement.
      seed: seed of the resamples.
    """

    against: str
    metrics: dict[str, Compared]
    classes: dict[str, Compared]
    num_images: int
    resamples: int
    seed: int

    def summary(self) -> str:
        """Format the difference of AP in one line."""
        ap = self.metrics["AP"]
        interval = (
            f"95 % interval {ap.low:+.3f} to {ap.high:+.3f} "
            f"({self.resamples} resamples of {self.num_images} images, seed {self.seed})"
            if ap.has_interval
            else f"no interval from fewer than {FEWEST_IMAGES} images with objects"
        )
        return (
            f"AP {ap.first:.3f} against {ap.second:.3f} of {self.against}: difference "
            f"{ap.difference:+.3f}, {interval}"
        )


def compare(
    data: DetectionData,
    first: DetectionArrays,
    second: DetectionArrays,
    against: str,
    resamples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Compare two detectors by the bootstrap over images.

    Both are measured on the same resamples, so that what makes images hard does not widen the
    interval of the difference.

    Args:
      data: images and ground truth.
      first: detections of the first detector in these images.
      second: those of the second.
      against: name of the second.
      resamples: number of resamples. Default 1000.
      seed: seed of the resamples. Default 0.
    """
    records, names = data.records, data.label_map.distinct_names
    ids = np.sort(np.array([record.image_id for record in records], np.int64))
    detectors = [
        ResampledPrecision(Matcher(records, found), ids, len(names)) for found in (first, second)
    ]
    parts = _draw(len(ids), resamples, seed)
    progress = tqdm(
        parts,
        "comparing",
        1 + -(-resamples // _AT_ONCE),
        leave=False,
        dynamic_ncols=True,
        disable=None,
    )
    values = np.concatenate(
        [[detector.average_precision(part) for detector in detectors] for part in progress], axis=1
    )
    with_objects = np.flatnonzero(~np.isnan(values[0, 0, 0]))
    images = detectors[0].images_with_objects
    return Comparison(
        against=against,
        metrics={
            name: _compared(_mean(values[:, :, which]), images())
            for name, which in _METRICS.items()
        },
        classes={
            names[i]: _compared(_mean(values[..., i : i + 1]), images(int(i))) for i in with_objects
        },
        num_images=len(ids),
        resamples=resamples,
        seed=seed,
    )


def _draw(images: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each image counts: once, then as drawn with replacement, in parts.

    Yields:
      int64 [up to `_AT_ONCE`, images].
    """
    random = np.random.default_rng(seed)
    yield np.ones((1, images), np.int64)
    for start in range(0, resamples, _AT_ONCE):
        shape = min(_AT_ONCE, resamples - start), images
        drawn = random.integers(0, images, shape) if images else np.zeros(shape, np.int64)
        yield np.stack([np.bincount(row, minlength=images) for row in drawn])


def _mean(values: np.ndarray) -> np.ndarray:
    """Average over thresholds and the classes with objects.

    Args:
      values: float64 [detectors, resamples, thresholds, classes].

    Returns:
      float64 [detectors, resamples]; NaN without objects.
    """
    by_class = values.mean(axis=2)
    known = ~np.isnan(by_class)
    sums = np.where(known, by_class, 0).sum(axis=-1)
    counts = known.sum(axis=-1)
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def _compared(values: np.ndarray, num_images: int) -> Compared:
    """Compare the values of two detectors.

    Args:
      values: float64 [2, 1 + resamples], of all images first.
      num_images: number of images with objects.
    """
    differences = values[0, 1:] - values[1, 1:]
    known = differences[~np.isnan(differences)]
    is_enough = len(known) > 0 and num_images >= FEWEST_IMAGES
    low, high = np.percentile(known, _PERCENTILES) if is_enough else (np.nan, np.nan)
    return Compared(float(values[0, 0]), float(values[1, 0]), float(low), float(high))

"""Statistics of a data set: images, objects, box sizes and aspect ratios."""

import dataclasses

import numpy as np

from efficientdet_tf.boxes import sizes
from efficientdet_tf.data.record_columns import RecordColumns
from efficientdet_tf.data.records import DetectionData, LabelMap

# Sides in pixels of the squares that separate COCO's small, medium and large objects.
SIZE_LIMITS = (32, 96)
SIZES = ("small", "medium", "large")
# Names and quantiles of a range of values.
RANGE = {"min": 0, "p5": 0.05, "median": 0.5, "p95": 0.95, "max": 1}


@dataclasses.dataclass(frozen=True)
class DataStatistics:
    """Statistics of the images and objects of a data set.

    Crowd regions and ignored objects are not counted as objects.

    Attributes:
      num_images: number of images.
      num_empty: number of images without an object.
      objects: int64 [classes], number of objects of each class.
      sizes: float64 [n], square root of each object's box area, in pixels of the
        network's input.
      aspects: float64 [n], width divided by height of each object's box.
      num_ignored: number of ignored objects.
    """

    num_images: int
    num_empty: int
    objects: np.ndarray
    sizes: np.ndarray
    aspects: np.ndarray
    num_ignored: int


def count_objects(data: DetectionData) -> np.ndarray:
    """Count objects by class, without crowd regions and ignored ones: int64 [classes]."""
    records = RecordColumns.build(data.records)
    return np.bincount(records.classes[records.is_counted], minlength=len(data.label_map))


def describe(
    data: DetectionData, image_size: tuple[int, int], resize: str = "pad"
) -> DataStatistics:
    """Compute the statistics of a data set.

    Args:
      data: the data set.
      image_size: (height, width) in pixels of the network's input.
      resize: "pad" or "stretch", see `efficientdet_tf.data.preprocessing.resize`. Default "pad".
    """
    records = RecordColumns.build(data.records)
    scales = input_scales(records, image_size, resize)
    owners = records.owners[records.is_counted]
    boxes = records.boxes[records.is_counted].astype(np.float64)
    height, width = (scales[owners] * sizes(boxes)).T
    return DataStatistics(
        num_images=len(data),
        num_empty=len(data) - len(np.unique(owners)),
        objects=count_objects(data),
        sizes=np.sqrt(height * width),
        aspects=width / np.maximum(height, 1e-9),
        num_ignored=int(records.is_ignored.sum()),
    )


def input_scales(records: RecordColumns, image_size: tuple[int, int], resize: str) -> np.ndarray:
    """Return the factors from each image's pixels to the network's input: [images, 2], y, x."""
    scales = np.array(image_size) / records.sizes
    if resize == "pad":
        scales = np.broadcast_to(scales.min(axis=1, keepdims=True), scales.shape)
    return scales


@dataclasses.dataclass(frozen=True)
class DataSummary:
    """What a table or a chart of a data set shows.

    Crowd regions and ignored objects are not counted as objects.

    Attributes:
      label_map: the classes.
      at_input: statistics at the size of the network's input.
      image_size: (height, width) in pixels of the network's input.
      num_images: int64 [classes], number of images with an object of each class.
      per_image: int64 [images], number of objects of each image.
      image_sizes: int64 [images, 2], (height, width) in pixels.
      sizes: float64 [n], square root of each object's annotated area, in original pixels.
      sizes_at_input: float64 [n], the same in pixels of the network's input.
      num_crowd: number of crowd regions.
      num_difficult: number of objects marked as difficult, ignored or not.
    """

    label_map: LabelMap
    at_input: DataStatistics
    image_size: tuple[int, int]
    num_images: np.ndarray
    per_image: np.ndarray
    image_sizes: np.ndarray
    sizes: np.ndarray
    sizes_at_input: np.ndarray
    num_crowd: int
    num_difficult: int

    def to_dict(self) -> dict:
        """Convert to numbers, texts, lists and dicts, e.g. for JSON."""
        numbers, height, width = self.at_input, *self.image_sizes.T
        share = numbers.objects / max(1, numbers.objects.sum())
        rows = zip(self.label_map.ids, self.label_map.names, self.num_images, numbers.objects)
        return {
            "images": numbers.num_images,
            "images_without_objects": numbers.num_empty,
            "image_height": _range(height),
            "image_width": _range(width),
            "image_aspect": _range(width / np.maximum(height, 1)),
            "objects": int(numbers.objects.sum()),
            "objects_per_image": {**_range(self.per_image), "mean": _mean(self.per_image)},
            "crowd_regions": self.num_crowd,
            "difficult_objects": self.num_difficult,
            "ignored_objects": numbers.num_ignored,
            "object_size": {**count_sizes(self.sizes), **_range(self.sizes)},
            "input_size": list(self.image_size),
            "object_size_at_input": {
                **count_sizes(self.sizes_at_input),
                **_range(self.sizes_at_input),
            },
            "object_aspect": _range(numbers.aspects),
            "classes": [
                {
                    "id": i,
                    "name": name,
                    "images": int(n),
                    "objects": int(m),
                    "share": float(share[k]),
                }
                for k, (i, name, n, m) in enumerate(rows)
            ],
        }


def summarize(data: DetectionData, image_size: tuple[int, int], resize: str = "pad") -> DataSummary:
    """Summarize a data set; arguments as in `describe`."""
    records = RecordColumns.build(data.records)
    counted = records.is_counted
    owners, area = records.owners[counted], records.area[counted].astype(np.float64)
    scales = input_scales(records, image_size, resize).prod(axis=1)
    of_image = np.unique(np.column_stack([owners, records.classes[counted]]), axis=0)
    return DataSummary(
        label_map=data.label_map,
        at_input=describe(data, image_size, resize),
        image_size=image_size,
        num_images=np.bincount(of_image[:, 1], minlength=len(data.label_map)),
        per_image=np.bincount(owners, minlength=len(records)),
        image_sizes=records.sizes,
        sizes=np.sqrt(area),
        sizes_at_input=np.sqrt(area * scales[owners]),
        num_crowd=int(records.is_crowd.sum()),
        num_difficult=int(records.is_difficult.sum()),
    )


def count_sizes(sizes: np.ndarray) -> dict[str, int]:
    """Count COCO's small, medium and large objects by the square roots of their areas [n]."""
    counts = np.bincount(np.digitize(sizes, SIZE_LIMITS), minlength=len(SIZES))
    return dict(zip(SIZES, counts.tolist()))


def _range(values: np.ndarray) -> dict[str, float | None]:
    """Return the quantiles of the values that `RANGE` names; None for no values."""
    if not len(values):
        return dict.fromkeys(RANGE)
    found = np.quantile(values.astype(np.float64), list(RANGE.values()))
    return dict(zip(RANGE, np.round(found, 4).tolist()))


def _mean(values: np.ndarray) -> float | None:
    return round(float(values.mean()), 4) if len(values) else None

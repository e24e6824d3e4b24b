"""TensorFlow Datasets reader: a prepared data set by name, e.g. "tfds:coco/2017" or "tfds:voc".

The first feature that is a sequence with boxes holds the objects; of its other features a
class label, `is_crowd`, `is_difficult` and `area` are used. Category ids are the numbers
of the class labels, from 0. Image ids are `image/id`, or count the images from 1 if these
are no distinct numbers. Data sets are searched in `$TFDS_DATA_DIR` or
~/tensorflow_datasets, and never downloaded.

The encoded images are kept in memory: convert data sets larger than memory elsewhere.
"""

import os
from typing import Any

import numpy as np

from efficientdet_tf.data import split_names
from efficientdet_tf.data.annotations import AnnotatedImage, Annotations, as_id, boxes_array
from efficientdet_tf.data.records import DataError, LabelMap

PREFIX = "tfds:"
_IMAGE = "image"


def recognises(path: str) -> bool:
    """Tell whether `path` is a name with the prefix "tfds:"."""
    return path.startswith(PREFIX)


def lacks_validation(path: str) -> str:
    """Explain why `path`, a training set, has no validation images; "" if it has some."""
    splits = _prepared(path).info.splits
    found = any(split_names.is_of_split("val", name) for name in splits)
    return "" if found else f"it has the splits {', '.join(splits)}"


def read(path: str, *, images: str, split: str) -> Annotations:
    """Read a split.

    Args:
      path: name of the data set after "tfds:", with config and version if needed.
      images: unused: the images are in the data set.
      split: name of the split; "val" is also `validation`.

    Raises:
      DataError: if tensorflow-datasets is not installed, the data set is not prepared, or
        it has no such split, images or boxes.
    """
    import tensorflow_datasets as tfds

    builder = _prepared(path)
    key, feature = _objects_feature(path, builder.info.features)
    names = _class_names(feature)
    part = _split_of(path, builder.info.splits, split)
    dataset = builder.as_dataset(split=part, decoders={_IMAGE: tfds.decode.SkipDecoding()})
    examples = list(tfds.as_numpy(dataset))
    annotated = [
        _annotated_image(f"{path} ({part}): image {number}", image_id, example, key, feature)
        for number, (image_id, example) in enumerate(zip(_image_ids(examples), examples), 1)
    ]
    return Annotations(
        images=annotated,
        label_map=LabelMap(tuple(range(len(names))), tuple(names)),
        class_indices={number: number for number in range(len(names))},
        source=f"{path} ({part})",
        object_word="object",
        box_field="bbox",
        label_field="label",
        fractions=True,
    )


def _prepared(path: str) -> Any:
    """Return the builder of a data set that is on the disk."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataError(
            f"{path}: needs TensorFlow Datasets: pip install tensorflow-datasets"
        ) from error
    name = path.removeprefix(PREFIX)
    # Read again, as the package reads it once.
    folder = os.environ.get("TFDS_DATA_DIR")
    try:
        builder = tfds.builder(name, data_dir=folder)
    except (ValueError, ImportError, FileNotFoundError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "unknown name"
        raise DataError(f"{path}: {reason}") from error
    if not builder.info.splits:
        raise DataError(
            f"{path}: is not in {builder.data_path.parent}; prepare it: tfds build {name}"
        )
    return builder


def _objects_feature(path: str, features: Any) -> tuple[str, Any]:
    """Return the key and the features of the objects."""
    import tensorflow_datasets as tfds

    if _IMAGE in features:
        for key, feature in features.items():
            inner = getattr(feature, "feature", None)
            if isinstance(inner, tfds.features.FeaturesDict) and _box_key(inner):
                return key, inner
    raise DataError(f"{path}: has no {_IMAGE} with a sequence of objects with boxes")


def _box_key(feature: Any) -> str:
    import tensorflow_datasets as tfds

    keys = [k for k, value in feature.items() if isinstance(value, tfds.features.BBoxFeature)]
    return keys[0] if keys else ""


def _label_key(feature: Any) -> str:
    import tensorflow_datasets as tfds

    keys = [k for k, value in feature.items() if isinstance(value, tfds.features.ClassLabel)]
    return "label" if "label" in keys else keys[0] if keys else ""


def _class_names(feature: Any) -> list[str]:
    """Return the class names; a data set without labels, e.g. of faces, has one class."""
    key = _label_key(feature)
    return feature[key].names if key else ["object"]


def _split_of(path: str, splits: Any, split: str) -> str:
    found = [name for name in splits if split_names.is_of_split(split, name)]
    if not found:
        raise DataError(f"{path}: has no split {split}, only {', '.join(splits)}")
    return found[0]


def _image_ids(examples: list[dict]) -> list[int]:
    """Return the data set's ids if all are distinct numbers, else ids counted from 1."""
    ids = [as_id(getattr(example.get("image/id"), "item", str)()) for example in examples]
    own = [number for number in ids if number is not None]
    return own if len(set(own)) == len(examples) else list(range(1, len(examples) + 1))


def _annotated_image(
    name: str, image_id: int, example: dict, key: str, feature: Any
) -> AnnotatedImage:
    objects = example[key]
    boxes = boxes_array(objects[_box_key(feature)])
    label = _label_key(feature)

    def flags(name: str) -> list[bool]:
        return np.asarray(objects[name], bool).tolist() if name in objects else []

    return AnnotatedImage(
        image_id=image_id,
        image=example[_IMAGE],
        name=name,
        annotation_file=name,
        size=None,
        boxes=boxes,
        labels=objects[label].tolist() if label else [0] * len(boxes),
        numbers=range(1, len(boxes) + 1),
        is_crowd=flags("is_crowd"),
        area=objects["area"].tolist() if "area" in objects else (),
        is_difficult=flags("is_difficult"),
    )

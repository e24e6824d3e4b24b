"""Records and label map: the common form of all data sets."""

import collections
import dataclasses
import json
from collections.abc import Mapping, Sequence

import numpy as np

from efficientdet_tf.data.image_sources import ImageSource
from efficientdet_tf.errors import UserError


class DataError(UserError):
    """A data set that cannot be used."""


@dataclasses.dataclass(frozen=True)
class LabelMap:
    """Mapping between class indices and the data set's category ids and class names.

    Class indices count from 0 without gaps and are internal; written files hold
    category ids and class names. There is no background class.

    Attributes:
      ids: the category ids, in order of class index.
      names: the class names, in order of class index.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]

    def __post_init__(self):
        if len(self.ids) != len(self.names) or len(set(self.ids)) != len(self.ids):
            raise DataError("label map: needs one name for every id, and distinct ids")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def distinct_names(self) -> tuple[str, ...]:
        """The class names, with the category id where several classes have the same name."""
        counts = collections.Counter(self.names)
        return tuple(
            f"{name} ({id_})" if counts[name] > 1 else name
            for id_, name in zip(self.ids, self.names)
        )

    def to_json(self) -> str:
        """Serialise as `[{"id": 1, "name": "person"}, ...]` in order of class index."""
        return json.dumps(
            [{"id": i, "name": n} for i, n in zip(self.ids, self.names, strict=True)],
            ensure_ascii=False,
        )

    @classmethod
    def from_json(cls, text: str) -> "LabelMap":
        """Parse the text that `to_json` writes."""
        try:
            items = json.loads(text)
            return cls(tuple(int(i["id"]) for i in items), tuple(str(i["name"]) for i in items))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"label map: not a list of id and name: {error}") from error


@dataclasses.dataclass(frozen=True)
class Record:
    """One image and its ground truth.

    Attributes:
      image_id: the data set's own id where it has integer ids, else counted
        from 1 in sorted order of file name.
      image: path of the image file, its encoded bytes, or where these are in a file.
      height, width: size in pixels of the upright image, i.e. after its EXIF
        orientation is applied if the annotations refer to the upright image.
      boxes: float32 [n, 4], ymin, xmin, ymax, xmax in pixels of that image.
      classes: int32 [n], class indices of the label map; -1 for an ignored
        object of an unknown category.
      is_crowd: bool [n], regions of many objects of a class.
      area: float32 [n], in pixels: of the mask where the data set gives it.
      name: name of the record in messages; the path if it has one.
      apply_exif: whether decoding applies the EXIF orientation.
      is_ignored: bool [n], objects of known position that are excluded from
        training and evaluation. None for none.
      is_difficult: bool [n], Pascal VOC's flag as it was annotated, whether it
        makes an object ignored or not. None for none.
    """

    image_id: int
    image: ImageSource
    height: int
    width: int
    boxes: np.ndarray
    classes: np.ndarray
    is_crowd: np.ndarray
    area: np.ndarray
    name: str = ""
    apply_exif: bool = True
    # `__post_init__` replaces None with all False.
    is_ignored: np.ndarray = None  # type: ignore[assignment]
    is_difficult: np.ndarray = None  # type: ignore[assignment]

    def __post_init__(self):
        for field in ("is_ignored", "is_difficult"):
            if getattr(self, field) is None:
                object.__setattr__(self, field, np.zeros(len(self.boxes), bool))

    @property
    def is_counted(self) -> np.ndarray:
        """bool [n], objects used in training and evaluation: neither crowd nor ignored."""
        return ~(self.is_crowd | self.is_ignored)


@dataclasses.dataclass(frozen=True)
class UnlabeledImages:
    """Images without annotations that are mixed into training batches.

    Attributes:
      records: the usable images.
      share: their share of the images of a batch, between 0 and 1.
    """

    records: Sequence[Record]
    share: float


@dataclasses.dataclass(frozen=True)
class DetectionData:
    """A data set in memory, without pixels.

    Attributes:
      records: the usable records.
      label_map: the classes of the data set.
      problems: one line for each excluded record and each object ignored because
        of an error, naming file and field.
      source: name of the data set in messages.
      notes: one line for each remark that is no error.
      box_only: see `annotations.Annotations`.
      unlabeled: images without annotations, which only training reads; None for none.
      excluded_ids: ids of the images that are no records, as they cannot be used.
    """

    records: Sequence[Record]
    label_map: LabelMap
    problems: Sequence[str] = ()
    source: str | None = None
    notes: Sequence[str] = ()
    box_only: Mapping[str, int] = dataclasses.field(default_factory=dict)
    unlabeled: UnlabeledImages | None = None
    excluded_ids: frozenset[int] = frozenset()

    def __len__(self) -> int:
        """Return the number of images with annotations."""
        return len(self.records)

"""What every data source yields: records and one label map."""

import dataclasses
import json
from collections.abc import Sequence

import numpy as np

from efficientdet_tf.errors import UserError


class DataError(UserError):
    """A data set that cannot be used."""


@dataclasses.dataclass(frozen=True)
class LabelMap:
    """Class index <-> the data set's own category id and name.

    Class indices count from 0 without gaps and exist only inside the program;
    files that leave it hold ids and names. There is no background class.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]

    def __post_init__(self):
        if len(self.ids) != len(self.names) or len(set(self.ids)) != len(self.ids):
            raise DataError("label map: needs one name for every id, and distinct ids")

    def __len__(self) -> int:
        return len(self.ids)

    def to_json(self) -> str:
        """`[{"id": 1, "name": "person"}, ...]` in order of class index."""
        return json.dumps(
            [{"id": i, "name": n} for i, n in zip(self.ids, self.names, strict=True)],
            ensure_ascii=False,
        )

    @classmethod
    def from_json(cls, text: str) -> "LabelMap":
        """The inverse of `to_json`."""
        try:
            items = json.loads(text)
            return cls(tuple(int(i["id"]) for i in items), tuple(str(i["name"]) for i in items))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"label map: not a list of id and name: {error}") from error


@dataclasses.dataclass(frozen=True)
class Record:
    """One image with its objects.

    Attributes:
      image_id: the data set's own id where it has integer ids, else counted
        from 1 in sorted order of file name.
      image: path of the image file, or its encoded bytes.
      height, width: size in pixels of the upright image, i.e. after its EXIF
        orientation is applied where the annotations mean it so.
      boxes: float32 [n, 4], ymin, xmin, ymax, xmax in pixels of that image.
      classes: int32 [n], class indices of the label map; -1 for an ignored
        object of an unknown category.
      is_crowd: bool [n], regions of many objects of a class.
      area: float32 [n], in pixels: of the mask where the data set gives it.
      name: what to call the record in messages; the path where there is one.
      apply_exif: whether decoding turns the image upright by its EXIF tag.
      is_ignored: bool [n], objects whose place is known, but which are neither
        learned nor counted. None for none.
      is_difficult: bool [n], Pascal VOC's flag as it was annotated, whether it
        makes an object ignored or not. None for none.
    """

    image_id: int
    image: str | bytes
    height: int
    width: int
    boxes: np.ndarray
    classes: np.ndarray
    is_crowd: np.ndarray
    area: np.ndarray
    name: str = ""
    apply_exif: bool = True
    # None is all False, which `__post_init__` puts in its place.
    is_ignored: np.ndarray = None  # type: ignore[assignment]
    is_difficult: np.ndarray = None  # type: ignore[assignment]

    def __post_init__(self):
        for field in ("is_ignored", "is_difficult"):
            if getattr(self, field) is None:
                object.__setattr__(self, field, np.zeros(len(self.boxes), bool))

    @property
    def is_counted(self) -> np.ndarray:
        """bool [n], objects that are learned and counted: neither crowds nor ignored."""
        return ~(self.is_crowd | self.is_ignored)


@dataclasses.dataclass(frozen=True)
class DetectionData:
    """A data set in memory (pixels excepted).

    Attributes:
      records: the usable records.
      label_map: its classes.
      problems: one line for each record that was left out and each object that
        is ignored because something is wrong, naming file and field.
      source: what the data set is called in messages.
      notes: one line for each thing that is worth knowing and is not wrong.
    """

    records: Sequence[Record]
    label_map: LabelMap
    problems: Sequence[str] = ()
    source: str | None = None
    notes: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.records)

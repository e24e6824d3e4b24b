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
      classes: int32 [n], class indices of the label map.
      is_crowd: bool [n].
      area: float32 [n], in pixels: of the mask where the data set gives it.
      name: what to call the record in messages; the path where there is one.
      apply_exif: whether decoding turns the image upright by its EXIF tag.
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


@dataclasses.dataclass(frozen=True)
class DetectionData:
    """A data set in memory (pixels excepted).

    Attributes:
      records: the usable records.
      label_map: its classes.
      problems: one line for each record or object that was left out, naming
        file and field.
      source: what the data set is called in messages.
    """

    records: Sequence[Record]
    label_map: LabelMap
    problems: Sequence[str] = ()
    source: str | None = None

    def __len__(self) -> int:
        return len(self.records)

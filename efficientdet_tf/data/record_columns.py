"""Records as columns: arrays over all images and objects instead of an object for each.

A hundred thousand records of six small arrays each take most of a gigabyte, and every check or
table of them a loop. As columns they take 27 bytes for each box, and are checked at once.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np

from efficientdet_tf.data.image_sources import ImageSource, image_column, join_columns
from efficientdet_tf.data.records import DetectionData, Record

_OBJECT_FIELDS = {
    "boxes": np.float32,
    "classes": np.int32,
    "is_crowd": bool,
    "area": np.float32,
    "is_ignored": bool,
    "is_difficult": bool,
}
_IMAGE_FIELDS = {"image_ids": np.int64, "sizes": np.int32, "apply_exif": bool}


@dataclasses.dataclass(frozen=True, eq=False)
class RecordColumns(Sequence[Record]):
    """Sequence of records that are made from columns on demand.

    Attributes:
      images: [n], see `image_sources.image_column`.
      names: [n], names of the records in messages.
      image_ids: int64 [n].
      sizes: int32 [n, 2], height and width in pixels, see `Record.height`.
      apply_exif: bool [n].
      offsets: int64 [n + 1]; the objects of record i are offsets[i] to offsets[i + 1].
      boxes: float32 [m, 4], ymin, xmin, ymax, xmax in pixels.
      classes: int32 [m], see `Record.classes`.
      is_crowd, is_ignored, is_difficult: bool [m].
      area: float32 [m], in pixels.
    """

    images: Sequence[ImageSource]
    names: Sequence[str]
    image_ids: np.ndarray
    sizes: np.ndarray
    apply_exif: np.ndarray
    offsets: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    is_crowd: np.ndarray
    area: np.ndarray
    is_ignored: np.ndarray
    is_difficult: np.ndarray

    @classmethod
    def build(cls, records: Sequence[Record]) -> "RecordColumns":
        """Return the columns of any records; of columns, themselves."""
        if isinstance(records, cls):
            return records
        objects = {
            field: _joined([getattr(record, field) for record in records], dtype)
            for field, dtype in _OBJECT_FIELDS.items()
        }
        return cls(
            images=image_column([record.image for record in records]),
            names=[record.name for record in records],
            image_ids=np.array([record.image_id for record in records], np.int64),
            sizes=np.array([(r.height, r.width) for r in records], np.int32).reshape(-1, 2),
            apply_exif=np.array([record.apply_exif for record in records], bool),
            offsets=offsets_of([len(record.boxes) for record in records]),
            **{**objects, "boxes": objects["boxes"].reshape(-1, 4)},
        )

    @classmethod
    def concatenate(cls, blocks: Iterable["RecordColumns"]) -> "RecordColumns":
        """Join blocks of records in their order."""
        parts = [cls.build([]), *blocks]
        lengths = np.concatenate([np.diff(part.offsets) for part in parts])
        arrays = {
            field: np.concatenate([getattr(part, field) for part in parts])
            for field in (*_IMAGE_FIELDS, *_OBJECT_FIELDS)
        }
        return cls(
            images=join_columns([part.images for part in parts]),
            names=[name for part in parts for name in part.names],
            offsets=offsets_of(lengths),
            **arrays,
        )

    @property
    def is_counted(self) -> np.ndarray:
        """bool [m], objects used in training and evaluation: neither crowd nor ignored."""
        return ~(self.is_crowd | self.is_ignored)

    @property
    def owners(self) -> np.ndarray:
        """int64 [m], the index of each object's record."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...

    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self._record(i) for i in range(*index.indices(len(self)))]
        # Raises IndexError, and counts from the end.
        return self._record(range(len(self))[index])

    def __iter__(self) -> Iterator[Record]:
        return map(self._record, range(len(self)))

    def _record(self, index: int) -> Record:
        begin, end = self.offsets[index], self.offsets[index + 1]
        height, width = self.sizes[index].tolist()
        return Record(
            image_id=int(self.image_ids[index]),
            image=self.images[index],
            height=height,
            width=width,
            name=self.names[index],
            apply_exif=bool(self.apply_exif[index]),
            **{field: getattr(self, field)[begin:end] for field in _OBJECT_FIELDS},
        )


def training_records(data: DetectionData) -> Sequence[Record]:
    """Return all records that training reads: those of the data set, then the unlabelled images."""
    if data.unlabeled is None:
        return data.records
    parts = data.records, data.unlabeled.records
    return RecordColumns.concatenate(map(RecordColumns.build, parts))


def offsets_of(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return where each part of a concatenation begins, and its end: int64 [n + 1]."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _joined(arrays: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(arrays).astype(dtype) if arrays else np.zeros(0, dtype)

"""COCO reader: a JSON file of annotations for each split, and a folder of images.

Category ids may have gaps and are kept; class indices are in their order. Boxes
are [xmin, ymin, width, height] in pixels from the image's top left corner. An
annotation with `"ignore": 1` is a difficult object, as `coco_writer` and MMDetection
write those of Pascal VOC; one without a box has that of its polygons.
"""

import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any, overload

import msgspec

from efficientdet_tf.data import coco_folder
from efficientdet_tf.data.annotations import (
    AnnotatedImage,
    Annotations,
    as_id,
    file_name_problem,
)
from efficientdet_tf.data.coco_file import Block, CocoFile
from efficientdet_tf.data.coco_objects import CocoObjects, PlainId, no_id, read_objects
from efficientdet_tf.data.faults import Fault
from efficientdet_tf.data.records import DataError, LabelMap

# Number of images probed to decide whether a folder is the image folder.
_PROBED = 20


class _ImageEntry(msgspec.Struct, gc=False):
    """An entry of the images as nearly all files write it; sizes in pixels, 0 if missing."""

    id: PlainId
    file_name: str
    height: int = 0
    width: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class _CocoImages(Sequence[AnnotatedImage]):
    """The images of a file with their objects, made from columns on demand."""

    path: str
    folder: Path
    entries: list[_ImageEntry]
    objects: CocoObjects

    @functools.cached_property
    def prefix(self) -> str:
        """The folder with its separator, "" for the current one."""
        return str(self.folder / "_")[:-1]

    def __len__(self) -> int:
        return len(self.entries)

    @overload
    def __getitem__(self, index: int) -> AnnotatedImage: ...

    @overload
    def __getitem__(self, index: slice) -> list[AnnotatedImage]: ...

    def __getitem__(self, index: int | slice) -> AnnotatedImage | list[AnnotatedImage]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        entry, objects = self.entries[index], self.objects
        name = entry.file_name
        # Joining by `Path` takes ten times as long.
        is_plain = os.sep not in name and "\\" not in name
        file = self.prefix + name if is_plain else str(_path_of(self.folder, name))
        mine = slice(objects.offsets[index], objects.offsets[index + 1])
        return AnnotatedImage(
            image_id=entry.id,
            image=file,
            name=file,
            annotation_file=self.path,
            size=(entry.height, entry.width),
            boxes=objects.boxes[mine],
            labels=objects.labels[mine].tolist(),
            numbers=objects.numbers[mine].tolist(),
            is_crowd=objects.is_crowd[mine].tolist(),
            area=objects.area[mine].tolist(),
            is_difficult=objects.is_difficult[mine].tolist(),
            unplaced=objects.unplaced.get(index, ()),
        )


def recognises(path: str) -> bool:
    """Tell whether `path` looks like a COCO annotation file, or a folder of such files."""
    return path.lower().endswith(".json") or coco_folder.is_folder_of_files(path)


def lacks_validation(path: str) -> str:
    """Explain why `path`, a training set, has no validation images."""
    if Path(path).is_dir():
        return coco_folder.lacks_validation(path)
    return "a COCO file is a single split"


def read(path: str, *, images: str, split: str) -> Annotations:
    """Read an annotation file.

    Args:
      path: the JSON file, or a folder of `coco_folder`.
      images: the folder that file names are relative to; "" searches beside the
        JSON file and one level up, also in folders named images, JPEGImages or
        like the split.
      split: the split that a folder's file is of; a file is one split.

    Raises:
      DataError: if the file is missing or no COCO annotation file, no image entry
        is usable, or the image folder is not found.
    """
    path = coco_folder.find(path, split)
    file = CocoFile.open(path)
    problems: list[str] = []
    label_map = _label_map(file)
    entries = _image_entries(file, problems)
    index_of_id = {entry.id: index for index, entry in enumerate(entries)}
    objects = read_objects(file.blocks("annotations"), index_of_id, problems)
    folder, moved = _image_folder(path, images, entries, split)
    return Annotations(
        images=_CocoImages(path, folder, entries, objects),
        label_map=label_map,
        class_indices={category: index for index, category in enumerate(label_map.ids)},
        source=path,
        object_word="annotation",
        box_field="bbox",
        label_field="category_id",
        box_form="xywh",
        problems=problems,
        notes=[*moved, *_repeated_ids(path, objects.repeated_ids)],
        box_only=objects.box_only,
    )


def _label_map(file: CocoFile) -> LabelMap:
    path = file.path
    categories = [entry for block in file.blocks("categories") for entry in block.parsed()]
    named = sorted(_category(path, category) for category in categories)
    ids = [category for category, _ in named]
    if not ids or len(set(ids)) != len(ids):
        raise DataError(f"{path}: categories: {'an id occurs twice' if ids else 'is empty'}")
    return LabelMap(tuple(ids), tuple(name for _, name in named))


def _category(path: str, category: Any) -> tuple[int, str]:
    """Parse an entry of the categories: (category id, class name)."""
    if not isinstance(category, dict) or "id" not in category or "name" not in category:
        raise DataError(f"{path}: categories: each needs an id, a number, and a name")
    category_id, name = as_id(category["id"]), category["name"]
    if category_id is None:
        raise DataError(f"{path}: categories: {no_id('category id', category['id'])}")
    if not isinstance(name, (str, int, float)):
        raise DataError(f"{path}: categories: name of {category_id}: must be a text")
    # Lone surrogates, which JSON may contain, cannot be written to a file.
    return category_id, str(name).encode("utf-8", "replace").decode()


def _image_entries(file: CocoFile, problems: list[str]) -> list[_ImageEntry]:
    """Return the usable entries, in the order of the file."""
    usable: dict[int, _ImageEntry] = {}
    for block in file.blocks("images"):
        for number, entry, problem in _entries(block):
            kind = "entry_unusable"
            if not problem and entry.id in usable:
                kind, problem = "image_id_duplicate", f"image id {entry.id} occurs twice"
            if problem:
                line = f"{file.path}: image {number} of the list: {problem}"
                problems.append(Fault.parse(kind, line))
            else:
                usable[entry.id] = entry
    if not usable:
        first = problems[0].removeprefix(f"{file.path}: ") if problems else ""
        reason = f"none can be used; the first problem: {first}" if problems else "is empty"
        raise DataError(f"{file.path}: images: {reason}")
    return list(usable.values())


def _entries(block: Block) -> Iterator[tuple[int, _ImageEntry, str]]:
    """Yield the number of each entry in the list, the entry, and why it is unusable."""
    entries = block.typed(_ImageEntry)
    if entries is not None:
        for number, entry in enumerate(entries, block.first):
            problem = file_name_problem(entry.file_name)
            yield number, entry, f"file_name: {problem}" if problem else ""
        return
    for number, values in enumerate(block.parsed(), block.first):
        problem = _entry_problem(values)
        if problem:
            yield number, _ImageEntry(0, ""), problem
            continue
        sides = _side(values.get("height")), _side(values.get("width"))
        yield number, _ImageEntry(as_id(values["id"]) or 0, values["file_name"], *sides), ""


def _entry_problem(entry: Any) -> str:
    """Describe why an entry of the images is unusable; "" if it is usable."""
    if not isinstance(entry, dict):
        return "is not an object"
    if as_id(entry.get("id")) is None:
        return no_id("image id", entry.get("id"))
    file_name = entry.get("file_name")
    if not isinstance(file_name, str):
        return "file_name: is missing"
    problem = file_name_problem(file_name)
    return f"file_name: {problem}" if problem else ""


def _side(value: Any) -> int:
    """Convert an image's height or width to pixels; return 0 if it is missing."""
    if isinstance(value, str) and value.isdecimal():
        value = float(value)
    return as_id(value) or 0


def _repeated_ids(path: str, repeated: Sequence[int]) -> list[Fault]:
    """Return a note on repeated annotation ids, or no note."""
    if not repeated:
        return []
    what = "annotation id occurs" if len(repeated) == 1 else "annotation ids occur"
    line = (
        f"{path}: {len(repeated)} {what} more than once, e.g. {repeated[0]}; all of these "
        "annotations are used, where pycocotools takes the last of an id for each"
    )
    place = f"annotation {repeated[0]}"
    return [Fault("annotation_id_duplicate", line, file=path, place=place, field="id")]


def _image_folder(
    path: str, images: str, entries: list[_ImageEntry], split: str
) -> tuple[Path, list[str]]:
    """Find the folder that the file names are relative to.

    Where there is none, file names lose their folders, which are of another disk, if they stay
    distinct; a note says so.
    """
    if images and not Path(images).is_dir():
        raise DataError(f"{images}: no such folder, given as the images of {path}")
    candidates = [Path(images)] if images else _candidate_folders(Path(path))
    names = [entry.file_name for entry in entries]
    if folder := _folder_with(names, candidates):
        return folder, []
    bare = [PureWindowsPath(name).name for name in names]
    folder = _folder_with(bare, candidates) if len(set(bare)) == len(bare) else None
    if folder:
        for entry, name in zip(entries, bare):
            entry.file_name = name
        line = f"images are taken from {folder}; their folders, as in {names[0]}, are not there"
        return folder, [f"{path}: {line}"]
    if images:
        return candidates[0], []
    looked_in = ", ".join(str(folder) for folder in candidates)
    setting = "data.train_images" if split == "train" else "data.val_images"
    raise DataError(
        f"{path}: its images, e.g. {entries[0].file_name}, are not in any of {looked_in}; name "
        f"their folder: --set {setting}=FOLDER, or --images=FOLDER for eval.py"
    )


def _folder_with(names: Sequence[str], folders: Sequence[Path]) -> Path | None:
    """Return the first folder that has one of the first files, None if none has."""
    for folder in folders:
        if any(os.path.isfile(_path_of(folder, name)) for name in names[:_PROBED]):
            return folder
    return None


def _path_of(folder: Path, file_name: str) -> Path:
    """Return the path of an image, whose file name may have been written on Windows."""
    path = folder / file_name
    if "\\" in file_name and not os.path.isfile(path):
        return folder / PureWindowsPath(file_name).as_posix()
    return path


def _candidate_folders(path: Path) -> list[Path]:
    # instances_train2017.json belongs to the folder train2017.
    split = path.stem.removeprefix("instances_")
    names = ("", "images", "JPEGImages", split, f"images/{split}")
    return [parent / name for parent in (path.parent, path.parent.parent) for name in names]

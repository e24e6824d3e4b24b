"""COCO files in a folder, one for each split.

annotations/instances_train2017.json   names of COCO, MMDetection and CVAT; also without the folder
                                       "annotations"
train/_annotations.coco.json           Roboflow's
annotations/train.json                 names of splits alone, only in the folder "annotations":
                                       beside images a JSON file may be LabelMe's
"""

from pathlib import Path

from efficientdet_tf.data import split_names
from efficientdet_tf.data.records import DataError

_ANNOTATIONS = "annotations"
_ROBOFLOW = "_annotations.coco.json"


def is_folder_of_files(path: str) -> bool:
    """Tell whether `path` is a folder with COCO files of splits."""
    return Path(path).is_dir() and bool(_files(Path(path)))


def lacks_validation(path: str) -> str:
    """Explain why a folder has no file of the validation split; "" if it has one."""
    val, train = (_files_of_split(Path(path), split) for split in ("val", "train"))
    # A file that no split is named by is of any.
    return "" if val and val != train else "the folder has no COCO file of split val"


def find(path: str, split: str) -> str:
    """Return the COCO file of a path: itself, or that of a split if it is a folder.

    Raises:
      DataError: if the folder has no file of the split, or several.
    """
    if not Path(path).is_dir():
        return path
    found = _files_of_split(Path(path), split)
    if len(found) == 1:
        return str(found[0])
    if found:
        names = ", ".join(str(file.relative_to(path)) for file in found)
        raise DataError(f"{path}: several COCO files of split {split}: {names}; use one of them")
    raise DataError(
        f"{path}: no COCO file of split {split}, such as annotations/instances_{split}.json or "
        f"{split}/{_ROBOFLOW}"
    )


def _files_of_split(folder: Path, split: str) -> list[Path]:
    files = _files(folder)
    of_folders = [file for file in files if file.name == _ROBOFLOW]
    if of_folders:
        return [f for f in of_folders if split_names.is_of_split(split, f.parent)]
    return split_names.files_of_split(split, files)


def _files(folder: Path) -> list[Path]:
    """List the COCO files of all splits; those of objects, where COCO's own have other kinds."""
    inside = folder / _ANNOTATIONS
    for pattern in (f"{_ANNOTATIONS}/instances*.json", "instances*.json", f"*/{_ROBOFLOW}"):
        if found := sorted(folder.glob(pattern)):
            return found
    return sorted(file for file in inside.glob("*.json") if split_names.words_in(file.stem))

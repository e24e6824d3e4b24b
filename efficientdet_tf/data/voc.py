"""Pascal VOC reader: a folder with Annotations, JPEGImages and ImageSets/Main.

Images may also be in a folder named images, or beside their XML files, as LabelImg and Roboflow
write them; folders such as train and valid are splits then.

Categories have names only. They are sorted by name and numbered from 1 over all
annotations of the folder, so that all splits agree; a file labels.txt in the
folder, one name per line, sets another order. An annotation's image is the file of its stem;
where there is none, that of its <filename>, which often is stale. Coordinates are used without the
original Pascal data's offset of one pixel, which tools that write this format
today do not have.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PureWindowsPath
from xml.etree import ElementTree

from efficientdet_tf.data import split_names
from efficientdet_tf.data.annotations import (
    IMAGE_SUFFIXES,
    AnnotatedImage,
    Annotations,
    boxes_array,
    file_name_problem,
    read_text,
)
from efficientdet_tf.data.class_names import label_map_of_folder
from efficientdet_tf.data.image_folders import ImageFolder, notes_on_deeper_files
from efficientdet_tf.data.records import DataError

# Number of XML files read to recognise a folder.
_PROBED = 3
# CVAT's list of the images of a task without splits.
_NO_SPLIT = "default.txt"
_CORNERS = ("ymin", "xmin", "ymax", "xmax")


def recognises(path: str) -> bool:
    """Tell whether `path` looks like a Pascal VOC folder, or one of XML files and images."""
    root = Path(path)
    return (root / "Annotations").is_dir() or _is_flat(root)


def lacks_validation(path: str) -> str:
    """Explain why `path`, a training set, has no validation images; "" if it has some."""
    root = Path(path)
    if not (root / "Annotations").is_dir() and _is_flat(root):
        return "" if _split_folder(root, "val") else "a folder of XML files without a folder val"
    found = (root / "ImageSets" / "Main" / "val.txt").is_file()
    return "" if found else "ImageSets/Main/val.txt is missing"


def read(path: str, *, images: str, split: str) -> Annotations:
    """Read a split of a folder.

    Args:
      path: the folder that contains Annotations, or XML files.
      images: the image folder; "" is JPEGImages or images in `path`, or that of the XML files.
      split: the name of a file in ImageSets/Main that lists the images; a
        folder without ImageSets is a single split with all of its annotations
        (see `lacks_validation`).

    Raises:
      DataError: if a folder or the split's file is missing or empty.
    """
    root = Path(path)
    folder, image_folder = _folders(root, split)
    image_folder = Path(images) if images else image_folder
    for place in (folder, image_folder):
        if not place.is_dir():
            raise DataError(f"{place}: no such folder; a Pascal VOC data set needs it")
    problems: list[str] = []
    files = _annotation_files(folder)
    if not files:
        raise DataError(f"{folder}: no XML file of Pascal VOC in it")
    others = () if folder.name == "Annotations" else _split_folders(root)
    # Those that are not of the split, whose names count as well.
    rest = dict.fromkeys([*files.values(), *(file for each in others for file in _xml_files(each))])
    finder = ImageFolder(image_folder)
    annotated, used = [], set[str]()
    for image_id, stem in _stems(root, split, list(files)):
        problem = file_name_problem(stem)
        if problem:
            problems.append(f"{folder}: file name {problem}")
            continue
        file = files.get(stem, folder / f"{stem}.xml")
        tree = _parse(file, problems)
        rest.pop(file, None)
        if tree is not None:
            used.update(_names(tree))
            annotated.append(_annotated_image(image_id, file, tree, finder))
    label_map = label_map_of_folder(root, itertools.chain(used, _names_in(rest)), folder)
    return Annotations(
        images=annotated,
        label_map=label_map,
        class_indices={name: index for index, name in enumerate(label_map.names)},
        source=f"{path} ({split})",
        object_word="object",
        box_field="bndbox",
        label_field="name",
        problems=problems,
        notes=[] if (root / "ImageSets").is_dir() else notes_on_deeper_files(folder, ".xml"),
    )


def _folders(root: Path, split: str) -> tuple[Path, Path]:
    """Return the folder of the annotation files, and that of the images."""
    if not (root / "Annotations").is_dir() and _is_flat(root):
        folder = _split_folder(root, split) or root
        return folder, folder
    usual, other = root / "JPEGImages", root / "images"
    return root / "Annotations", other if other.is_dir() and not usual.is_dir() else usual


def _is_flat(root: Path) -> bool:
    """Tell whether XML files are in a folder itself, or in folders of the splits."""
    return _has_annotations(root) or bool(_split_folders(root))


def _split_folder(root: Path, split: str) -> Path | None:
    places = [root / word for word in split_names.words_of(split)]
    return next((place for place in places if _has_annotations(place)), None)


def _split_folders(root: Path) -> list[Path]:
    found = (_split_folder(root, split) for split in split_names.WORDS)
    return [folder for folder in found if folder]


def _has_annotations(folder: Path) -> bool:
    """Tell whether one of the first XML files of a folder is of Pascal VOC."""
    trees = [_parse(file, problems=[]) for file in _xml_files(folder)[:_PROBED]]
    return any(tree is not None and tree.tag == "annotation" for tree in trees)


def _xml_files(folder: Path) -> list[Path]:
    """List the XML files of a folder, sorted by stem; none if it is no folder."""
    if not folder.is_dir():
        return []
    files = [file for file in folder.iterdir() if file.suffix.lower() == ".xml"]
    return sorted(files, key=lambda file: (file.stem, file.suffix))


def _annotation_files(folder: Path) -> dict[str, Path]:
    """Find the annotation files of a folder: {stem: file}, sorted by stem."""
    return {file.stem: file for file in _xml_files(folder)}


def _stems(root: Path, split: str, every: Sequence[str]) -> list[tuple[int, str]]:
    """List the (image id, file stem) of each image of a split.

    The ids number `every` annotation of the folder, so that they are distinct across splits.
    """
    ids = {stem: number for number, stem in enumerate(every, 1)}
    if not (root / "ImageSets").is_dir():
        return [(ids[stem], stem) for stem in every]
    lists = root / "ImageSets" / "Main"
    list_file, of_cvat = lists / f"{split}.txt", lists / _NO_SPLIT
    if not list_file.is_file() and of_cvat.is_file():
        list_file = of_cvat
    if not list_file.is_file():
        raise DataError(f"{list_file}: no such file; it lists the images of the split {split!r}")
    lines = [line.strip() for line in read_text(list_file).splitlines()]
    # Lists of one class have a second column; a file name may have spaces.
    stems = dict.fromkeys(line if line in ids else line.split()[0] for line in lines if line)
    # A missing annotation file is reported when it is opened.
    return [(ids.get(stem, len(every) + i), stem) for i, stem in enumerate(stems, 1)]


def _names_in(files: Iterable[Path]) -> Iterator[str]:
    for file in files:
        tree = _parse(file, problems=[])
        if tree is not None:
            yield from _names(tree)


def _names(tree: ElementTree.Element) -> Iterator[str]:
    return ((item.findtext("name") or "").strip() for item in tree.iter("object"))


def _parse(file: Path, problems: list[str]) -> ElementTree.Element | None:
    try:
        return ElementTree.parse(file).getroot()
    except FileNotFoundError:
        problems.append(f"{file}: annotation file is missing")
    except ElementTree.ParseError as error:
        problems.append(f"{file}: line {error.position[0]}: not valid XML")
    except OSError as error:
        problems.append(f"{file}: cannot be read: {error.strerror}")
    except (ValueError, LookupError) as error:
        # An encoding that the parser does not support.
        problems.append(f"{file}: not valid XML: {error}")
    return None


def _annotated_image(
    image_id: int, file: Path, tree: ElementTree.Element, image_folder: ImageFolder
) -> AnnotatedImage:
    boxes, labels, numbers, is_difficult, unplaced = [], [], [], [], []
    for number, item in enumerate(tree.iter("object"), 1):
        try:
            boxes.append([float(item.findtext(f"bndbox/{corner}", "")) for corner in _CORNERS])
        except ValueError:
            corners = ", ".join(_CORNERS)
            unplaced.append(f"{file}: object {number}: bndbox: must have the numbers {corners}")
            continue
        labels.append((item.findtext("name") or "").strip())
        numbers.append(number)
        is_difficult.append((item.findtext("difficult") or "").strip() == "1")
    image = str(_image_file(image_folder, file.stem, tree.findtext("filename")))
    return AnnotatedImage(
        image_id=image_id,
        image=image,
        name=image,
        annotation_file=str(file),
        size=_size(tree),
        boxes=boxes_array(boxes),
        labels=labels,
        numbers=numbers,
        is_difficult=is_difficult,
        unplaced=unplaced,
    )


def _size(tree: ElementTree.Element) -> tuple[int, int] | None:
    try:
        return int(tree.findtext("size/height", "")), int(tree.findtext("size/width", ""))
    except ValueError:
        return None


def _image_file(folder: ImageFolder, stem: str, file_name: str | None) -> Path:
    """Find the file with the annotation's stem, or else the named one; else guess one of them."""
    guesses = [f"{stem}{suffix}" for suffix in IMAGE_SUFFIXES]
    # A name is often that of another data set's image, from before files were renamed.
    # Some have the path of the image on the annotator's disk, with the separators of any system.
    name = (file_name or "").strip()
    named = list(dict.fromkeys([name, PureWindowsPath(name).name])) if name else []
    return folder.find(guesses) or folder.find(named) or folder.path / (*named, *guesses)[0]

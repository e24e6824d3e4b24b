"""Files that describe a data set of YOLO: its class names, and the images of each split.

data.yaml      Ultralytics' keys names, train, val and test, kpt_shape and path
obj.data       Darknet's lines "key = value": names, a file of class names; train and valid
classes.txt    class names, one per line, as LabelImg and Label Studio write them. The images are
               in images/train and images/val, or all in images, or beside the file
"""

from pathlib import Path

import yaml

from efficientdet_tf.data import split_names, yolo_images
from efficientdet_tf.data.annotations import read_text
from efficientdet_tf.data.records import DataError

CLASSES = "classes.txt"
_YAML, _DARKNET = (".yaml", ".yml"), ".data"


def is_description(path: str) -> bool:
    """Tell whether `path` is such a file, or a folder with one."""
    file = find(path)
    if file.name != CLASSES:
        is_named = file.suffix.lower() in (*_YAML, _DARKNET)
        # A file that is missing is named by `load`.
        return is_named and (file.is_file() or not Path(path).is_dir())
    # Any folder may have a list of classes.
    has_labels = any(other.name != CLASSES for other in file.parent.glob("*.txt"))
    return file.is_file() and (has_labels or (file.parent / "labels").is_dir())


def find(path: str) -> Path:
    """Return the file that describes the data set of a path, which may be its folder."""
    folder = Path(path)
    if not folder.is_dir():
        return folder
    usual = folder / "data.yaml"
    others = [*sorted(folder.glob(f"*{_DARKNET}")), folder / CLASSES]
    return next((file for file in (usual, *others) if file.is_file()), usual)


def load(file: Path) -> dict:
    """Read a file that describes a data set; the content has the keys of data.yaml.

    Raises:
      DataError: if it cannot be read, or has another form.
    """
    if file.suffix.lower() == _DARKNET:
        return _load_darknet(file)
    return _load_classes(file) if file.name == CLASSES else _load_yaml(file)


def _load_darknet(file: Path) -> dict:
    pairs = (line.partition("=") for line in read_text(file).splitlines())
    content = {key.strip(): value.strip() for key, _, value in pairs if value.strip()}
    if "names" not in content:
        raise DataError(f"{file}: names: is missing; it names the file of the class names")
    names = _lines(yolo_images.existing(file, {}, content["names"], "names"))
    splits = {"train": content.get("train"), "val": content.get("valid")}
    return {"names": names, **{split: place for split, place in splits.items() if place}}


def _load_classes(file: Path) -> dict:
    # Relative to the file.
    images = "images" if (file.parent / "images").is_dir() else "."
    found = {
        split: f"{images}/{word}"
        for split, words in split_names.WORDS.items()
        for word in words
        if (file.parent / images / word).is_dir()
    }
    return {"names": _lines(file), **(found or dict.fromkeys(split_names.WORDS, images))}


def _lines(file: Path) -> list[str]:
    """Read the class names of a file, one per line; empty lines at its end are none."""
    return [line.strip() for line in read_text(file).rstrip().splitlines()]


def _load_yaml(file: Path) -> dict:
    text = read_text(file)
    try:
        loader = yaml.SafeLoader(text)
        document = loader.get_single_node()
        for name in _name_nodes(document):
            # Classes may be `no`, `010` and `1.10`, which YAML 1.1 reads as false, 8 and 1.1.
            name.tag = "tag:yaml.org,2002:str"
        content = loader.construct_document(document) if document else None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        raise DataError(f"{file}: {line}not valid YAML") from error
    if not isinstance(content, dict):
        raise DataError(f"{file}: must hold keys and values; is it a YOLO data.yaml?")
    return content


def _name_nodes(document: yaml.Node | None) -> list[yaml.ScalarNode]:
    """Return the nodes of the class names, which are values of the key "names"."""
    pairs = document.value if isinstance(document, yaml.MappingNode) else []
    nodes: list[yaml.Node] = []
    for key, value in pairs:
        if key.value == "names" and isinstance(value, yaml.SequenceNode):
            nodes += value.value
        elif key.value == "names" and isinstance(value, yaml.MappingNode):
            nodes += [name for _, name in value.value]
    is_null = "tag:yaml.org,2002:null"
    return [each for each in nodes if isinstance(each, yaml.ScalarNode) and each.tag != is_null]

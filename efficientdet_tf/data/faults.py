"""Faults of data sets: what is wrong where, and what to do about it.

A fault is the line that users read, with its parts. Loading reports some kinds
(`validation`), `python -m efficientdet_tf data check` all of them (`checks`).
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

SEVERITIES = ("error", "warning", "note")


class Kind(NamedTuple):
    """Kind of fault.

    Attributes:
      title: title of a list of such faults.
      severity: "error" for what is lost in training or makes the metrics wrong, "warning"
        for what probably is a mistake, "note" for what may be intended.
      proposal: what to do about it.
    """

    title: str
    severity: str
    proposal: str


KINDS = {
    "image_missing": Kind(
        "Missing image files", "error", "put the file there, or remove its annotation"
    ),
    "image_empty": Kind("Empty image files", "error", "copy the file from its source again"),
    "image_unreadable": Kind(
        "Files that are no readable image", "error", "copy the file from its source again"
    ),
    "image_truncated": Kind(
        "Truncated or damaged images", "error", "copy the file from its source again"
    ),
    "image_partial": Kind(
        "Images that some programs cannot read",
        "warning",
        "save the image again, or copy it from its source",
    ),
    "image_bomb": Kind(
        "Images too large to open", "error", "scale the image down, or cut it into tiles"
    ),
    "image_huge": Kind(
        "Huge images",
        "warning",
        "scale it down or cut it into tiles, with its boxes: small objects vanish when it is "
        "resized to the network's input",
    ),
    "image_format": Kind(
        "Images of an unsupported format", "error", "convert the file to JPEG or PNG"
    ),
    "image_suffix": Kind(
        "File names with another format's suffix", "warning", "rename the file to its format"
    ),
    "image_mode": Kind(
        "Images of unusual colour modes", "warning", "save the image as 8-bit RGB or grey"
    ),
    "image_orientation": Kind(
        "Images with an EXIF orientation",
        "warning",
        "save the pixels upright without the tag: not every tool applies it",
    ),
    "image_size": Kind(
        "Annotated size is not the image's",
        "error",
        "correct width and height; if the image was scaled after it was annotated, scale the boxes",
    ),
    "entry_unusable": Kind(
        "Entries that cannot be read", "error", "correct or remove the entry at this place"
    ),
    "image_id_duplicate": Kind(
        "Image ids that occur twice", "error", "give each image an id of its own"
    ),
    "annotation_id_duplicate": Kind(
        "Annotation ids that occur more than once",
        "warning",
        "renumber the annotation ids; pycocotools reads one of them in place of the others",
    ),
    "box_unreadable": Kind("Boxes that cannot be read", "error", "annotate the object again"),
    "box_not_finite": Kind("Boxes that are not finite", "error", "annotate the object again"),
    "box_all_zero": Kind(
        "Boxes of zeros", "error", "annotate the object, or remove it if there is none"
    ),
    "box_negative": Kind(
        "Boxes of negative size", "error", "exchange the corners; check the order of the numbers"
    ),
    "box_empty": Kind(
        "Boxes without width or height", "error", "annotate the object again, or remove the box"
    ),
    "box_outside": Kind(
        "Boxes outside their image",
        "error",
        "check whether the box belongs to another image or another size of this one",
    ),
    "box_far_outside": Kind(
        "Boxes far beyond their image",
        "error",
        "check the unit and the order of the numbers, and whether the image was scaled",
    ),
    "box_beyond": Kind(
        "Boxes that reach beyond their image", "warning", "clip the box to the image"
    ),
    "box_order": Kind(
        "Boxes in another order of numbers",
        "error",
        "convert all boxes of the file to the order that its format demands",
    ),
    "box_duplicate": Kind(
        "Objects that are annotated twice", "warning", "remove one of the two boxes"
    ),
    "box_small": Kind(
        "Boxes too small for any anchor",
        "warning",
        "train at a larger model.image_size or with a smaller anchors.scale: "
        "'python -m efficientdet_tf data anchors' proposes both",
    ),
    "category_unknown": Kind(
        "Unknown categories", "error", "add the category to the list, or correct the annotation"
    ),
    "image_duplicate": Kind(
        "Images that occur twice in a set", "warning", "keep one, with the better annotation"
    ),
    "leakage": Kind(
        "Images that are in both splits",
        "error",
        "remove the image from one split, or the metrics are too good",
    ),
    "image_unannotated": Kind(
        "Images without annotations",
        "note",
        "annotate them if they have objects: they are trained as background",
    ),
    "image_unlisted": Kind(
        "Image files that no annotation names",
        "note",
        "annotate them, or give the split they belong to with --val_data",
    ),
    "annotation_without_image": Kind(
        "Annotation files without an image", "warning", "restore the image, or remove the file"
    ),
    "classes_differ": Kind(
        "Splits of different classes",
        "error",
        "rename the class of these objects, or give the training set some of it",
    ),
    "class_empty": Kind(
        "Classes without objects",
        "warning",
        "add objects, or remove the class: it can be neither learned nor measured",
    ),
    "class_rare": Kind(
        "Rare classes",
        "warning",
        "add objects of the class, or set loss.class_weights=effective",
    ),
    "suspect_unlabelled": Kind(
        "Confident predictions where no object is annotated",
        "note",
        "annotate the object, if there is one",
    ),
    "suspect_class": Kind(
        "Confident predictions of another class", "note", "check the category of the object"
    ),
    "suspect_unfound": Kind(
        "Objects that no prediction finds",
        "note",
        "check the box; if it is right, the model needs more such objects or a larger input",
    ),
}


class Fault(str):
    """Line about a fault of a data set, with its parts; equal to the plain line.

    Args:
      kind: key of `KINDS`.
      line: the whole line, 'file: place: field: fact; consequence'.
      file: file that has to be corrected.
      place: place within the file, e.g. "line 3" or "annotation 17". Default "".
      field: field at that place. Default "".
      image: name of the image, `Record.name`; "" if it concerns none. Default "".
      box: ymin, xmin, ymax, xmax in pixels as annotated. Default None.
      other: name of the other image of a pair of equal images. Default "".
    """

    kind: str
    file: str
    place: str
    field: str
    image: str
    box: tuple[float, float, float, float] | None
    other: str

    def __new__(
        cls,
        kind: str,
        line: str,
        *,
        file: str,
        place: str = "",
        field: str = "",
        image: str = "",
        box: Sequence[float] | None = None,
        other: str = "",
    ) -> "Fault":
        assert kind in KINDS, kind
        fault = super().__new__(cls, line)
        fault.kind, fault.file, fault.place, fault.field = kind, file, place, field
        fault.image, fault.other = image, other
        fault.box = None if box is None else tuple(map(float, box))  # type: ignore[assignment]
        return fault

    def __getnewargs_ex__(self) -> tuple[tuple[str, str], dict[str, Any]]:
        """Return the arguments with which a copy, e.g. of another process, is made."""
        names = ("file", "place", "field", "image", "box", "other")
        return (self.kind, str(self)), {name: getattr(self, name) for name in names}

    @classmethod
    def parse(cls, kind: str, line: str, image: str = "") -> "Fault":
        """Return the fault of a reader's line, 'file: place: field: fact'; faults stay as are."""
        if isinstance(line, Fault):
            return line
        file, _, rest = line.partition(": ")
        place, field = "", ""
        if found := re.match(_PLACE, rest):
            place, rest = found[1], rest[found.end() :]
        if found := re.match(_FIELD, rest):
            field = found[1]
        return cls(kind, line, file=file, place=place, field=field, image=image)

    @property
    def severity(self) -> str:
        """One of `SEVERITIES`."""
        return KINDS[self.kind].severity

    @property
    def fact(self) -> str:
        """The line without file, place and field."""
        text = str(self)
        for part in (self.file, self.place, self.field):
            text = text.removeprefix(f"{part}: ") if part else text
        return text


_PLACE = r"((?:line|row|record|image|annotation|object|shape) \S+?(?: of [^:]+)?): "
_FIELD = r"([\w/.]+): "

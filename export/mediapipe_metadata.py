"""Metadata by which MediaPipe's ObjectDetector, and other readers of TFLITE_METADATA, run a file.

Written by slot numbers of the public schemas `metadata_schema.fbs` (TFLite Support) and
`object_detector_metadata_schema.fbs` (MediaPipe), as no package for current Pythons writes them.
"""

import io
import zipfile
from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

ENTRY = "TFLITE_METADATA"
# Anchors and decoding of a model without NMS.
DETECTOR_ENTRY = "DETECTOR_METADATA"
# Class names, one a line, in a zip archive behind the flatbuffer.
LABELS = "labels.txt"

# Enumerations of the schema.
_FEATURE, _IMAGE, _BOUNDING_BOX = 1, 2, 3
_RGB = 1
_NORMALIZATION = 1
_TENSOR_AXIS_LABELS, _TENSOR_VALUE_LABELS = 2, 3
_BOUNDARIES = 1


def add_labels(model: bytes, names: Sequence[str]) -> bytes:
    """Append the label file as a zip archive, which readers of flatbuffers do not see.

    Args:
      model: complete .tflite file.
      names: class names by class index.
    """
    content = io.BytesIO(model)
    with zipfile.ZipFile(content, "a", zipfile.ZIP_STORED) as archive:
        # Of a fixed date, so that equal models are equal files.
        entry = zipfile.ZipInfo(LABELS, (1980, 1, 1, 0, 0, 0))
        archive.writestr(entry, "\n".join(" ".join(name.split()) for name in names))
    return content.getvalue()


def add_entry(model: Any, name: str, content: bytes) -> None:
    """Add an entry to the metadata of a parsed model, `ModelT`, in place."""
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(content, np.uint8)
    entry.name, entry.buffer = name, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]


def detections_metadata(description: str) -> bytes:
    """Build the metadata of a model with outputs boxes, classes, scores and their number.

    Args:
      description: what a reader shows of the model.
    """
    tables = _Tables()
    outputs = [
        tables.output("location", tables.box_content(has_range=True)),
        tables.output("category", tables.feature_content(has_range=True), _TENSOR_VALUE_LABELS),
        tables.output("score", tables.feature_content(has_range=True)),
        tables.output("number of detections", tables.feature_content()),
    ]
    names = tables.vector([tables.text(name) for name in ("location", "category", "score")])
    group = tables.table({0: tables.text("detection_result"), 1: names})
    return tables.finish(description, outputs, {8: tables.vector([group])})


def raw_metadata(description: str, anchors: np.ndarray, num_classes: int) -> bytes:
    """Build the metadata of a model with outputs box deltas and class logits.

    Args:
      description: what a reader shows of the model.
      anchors: float [N, 4], center y and x, height and width, relative to the image.
      num_classes: number of classes.
    """
    tables = _Tables()
    outputs = [
        tables.output("location", tables.box_content()),
        tables.output("score", tables.feature_content(), _TENSOR_AXIS_LABELS),
    ]
    data = tables.aligned(_detector_options(anchors, num_classes))
    custom = tables.table({0: tables.text(DETECTOR_ENTRY), 1: data})
    return tables.finish(description, outputs, {9: tables.vector([custom])})


def _detector_options(anchors: np.ndarray, num_classes: int) -> bytes:
    """Build MediaPipe's options: fixed anchors, and how boxes and scores are decoded."""
    tables = _Tables()
    fixed = tables.vector(
        [
            tables.table({i: ("Float32", float(v)) for i, v in enumerate((x, y, width, height))})
            for y, x, height, width in anchors
        ]
    )
    ssd = tables.table({0: tables.table({0: fixed})})
    numbers = {0: num_classes, 1: len(anchors), 2: 4, 3: 0, 4: 0, 5: 2}
    decoding: dict[int, Any] = {slot: ("Int32", value) for slot, value in numbers.items()}
    # Deltas in units of the anchor: scales of y, x, height and width.
    decoding |= {slot: ("Float32", 1.0) for slot in (6, 7, 8, 9)}
    # Exponential of sizes, sigmoid of scores.
    decoding |= {10: ("Bool", True), 11: ("Bool", True)}
    root = tables.table({0: tables.text("1.0.0"), 1: ssd, 2: tables.table(decoding)})
    return tables.done(root, b"V001")


class _Tables:
    """Flatbuffer under construction; offsets are integers, other values (type, value)."""

    def __init__(self) -> None:
        self._builder = flatbuffers.Builder(1024)

    def text(self, value: str) -> int:
        return self._builder.CreateString(value)

    def vector(self, offsets: Sequence[int]) -> int:
        self._builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self._builder.PrependUOffsetTRelative(offset)
        return self._builder.EndVector()

    def numbers(self, values: Sequence[float], dtype: type) -> int:
        return self._builder.CreateNumpyVector(np.array(values, dtype))

    def aligned(self, content: bytes) -> int:
        """Add a vector of bytes, aligned to 16 as the schema asks."""
        self._builder.StartVector(1, len(content), 16)
        self._builder.head = self._builder.head - len(content)
        start = self._builder.head
        self._builder.Bytes[start : start + len(content)] = content
        return self._builder.EndVector()

    def table(self, slots: dict[int, Any]) -> int:
        self._builder.StartObject(1 + max(slots, default=-1))
        for slot, value in slots.items():
            if isinstance(value, tuple):
                dtype, number = value
                getattr(self._builder, f"Prepend{dtype}Slot")(slot, number, 0)
            else:
                self._builder.PrependUOffsetTRelativeSlot(slot, value, 0)
        return self._builder.EndObject()

    def done(self, root: int, identifier: bytes) -> bytes:
        self._builder.Finish(root, file_identifier=identifier)
        return bytes(self._builder.Output())

    def box_content(self, has_range: bool = False) -> int:
        # Index of left, top, right and bottom, in pixels relative to the image.
        order = self.numbers([1, 0, 3, 2], np.uint32)
        properties = self.table({0: order, 1: ("Uint8", _BOUNDARIES), 2: ("Uint8", 0)})
        return self._content(_BOUNDING_BOX, properties, has_range)

    def feature_content(self, has_range: bool = False) -> int:
        return self._content(_FEATURE, self.table({}), has_range)

    def _content(self, kind: int, properties: int, has_range: bool) -> int:
        """Add a content, with the axis that counts detections as its range."""
        slots: dict[int, Any] = {0: ("Uint8", kind), 1: properties}
        if has_range:
            slots[2] = self.table({0: ("Int32", 2), 1: ("Int32", 2)})
        return self.table(slots)

    def output(self, name: str, content: int, labels: int | None = None) -> int:
        slots: dict[int, Any] = {0: self.text(name), 3: content}
        if labels is not None:
            file = {
                0: self.text(LABELS),
                1: self.text("Class names, one a line, by class index."),
                2: ("Uint8", labels),
            }
            slots[6] = self.vector([self.table(file)])
        return self.table(slots)

    def finish(self, description: str, outputs: list[int], others: dict[int, Any]) -> bytes:
        """Build the metadata of a model from its outputs and other fields of its graph."""
        graph = {2: self.vector([self._image()]), 3: self.vector(outputs), **others}
        root = {
            0: self.text("EfficientDet"),
            1: self.text(description),
            3: self.vector([self.table(graph)]),
            # The parser of this version or a newer one.
            7: self.text("1.5.0"),
        }
        return self.done(self.table(root), b"M001")

    def _image(self) -> int:
        """Add the input: an RGB image whose pixels, 0 to 255, are not normalised."""
        content = self._content(_IMAGE, self.table({0: ("Uint8", _RGB)}), has_range=False)
        options = {0: self.numbers([0], np.float32), 1: self.numbers([1], np.float32)}
        unit = self.table({0: ("Uint8", _NORMALIZATION), 1: self.table(options)})
        limits = {0: self.numbers([255], np.float32), 1: self.numbers([0], np.float32)}
        slots = {
            0: self.text("image"),
            3: content,
            4: self.vector([unit]),
            5: self.table(limits),
        }
        return self.table(slots)

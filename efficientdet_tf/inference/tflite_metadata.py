"""Metadata embedded in a .tflite file, which make it self-contained."""

import dataclasses
import json
import struct

from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.tools import flatbuffer_utils

from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.errors import UserError

# Name of the entry in the flatbuffer's `metadata`; its buffer is UTF-8 JSON.
ENTRY = "EFFICIENTDET"
# More threads would lose a class; see `export.tflite`.
MAX_THREADS = 16


class MetadataError(UserError):
    """A .tflite file without our metadata."""


@dataclasses.dataclass(frozen=True)
class Metadata:
    """Metadata needed to run the model.

    Attributes:
      image_size: (height, width) of the input in pixels.
      pad_value: RGB of the padding at the bottom and right, 0..255.
      label_map: class index of the output -> category id and name.
    """

    image_size: tuple[int, int]
    pad_value: tuple[float, float, float]
    label_map: LabelMap

    def to_json(self) -> str:
        """Serialise to a JSON object with the fields as keys."""
        return json.dumps(
            {
                "image_size": self.image_size,
                "pad_value": self.pad_value,
                "label_map": json.loads(self.label_map.to_json()),
            },
            ensure_ascii=False,
        )

    @classmethod
    def from_json(cls, text: str) -> "Metadata":
        """Parse the result of `to_json`.

        Raises:
          MetadataError: for other JSON.
        """
        try:
            values = json.loads(text)
            height, width = values["image_size"]
            red, green, blue = values["pad_value"]
            label_map = LabelMap.from_json(json.dumps(values["label_map"]))
        except (ValueError, KeyError, TypeError) as error:
            raise MetadataError(f"metadata {ENTRY}: damaged: {error}") from error
        return cls((height, width), (red, green, blue), label_map)


def with_metadata(model: bytes, metadata: Metadata) -> bytes:
    """Embed metadata in a .tflite model and return the new file content."""
    flatbuffer = flatbuffer_utils.convert_bytearray_to_object(bytearray(model))
    buffer = schema.BufferT()
    buffer.data = list(metadata.to_json().encode())
    entry = schema.MetadataT()
    entry.name, entry.buffer = ENTRY, len(flatbuffer.buffers)
    flatbuffer.buffers.append(buffer)
    flatbuffer.metadata = [*(flatbuffer.metadata or []), entry]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(flatbuffer))


def read_metadata(model: bytes) -> Metadata:
    """Read the metadata of a .tflite model.

    Raises:
      MetadataError: when the metadata are missing, or the file is damaged.
    """
    if model[4:8] != b"TFL3":
        raise MetadataError("not a .tflite file")
    try:
        root = schema.Model.GetRootAs(model, 0)
        for i in range(root.MetadataLength()):
            entry = root.Metadata(i)
            if entry.Name() == ENTRY.encode():
                data = root.Buffers(entry.Buffer()).DataAsNumpy()
                return Metadata.from_json(bytes(data).decode())
    # Flatbuffers follows damaged offsets without checks.
    except (struct.error, LookupError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise MetadataError("damaged .tflite file") from error
    raise MetadataError(f"no metadata {ENTRY}")

"""Reading our metadata in a .tflite file."""

import struct

from ai_edge_litert import schema_py_generated as schema

from efficientdet_tf.inference.metadata import ENTRY, Metadata, MetadataError

# More threads would lose a class; see `export.tflite_nms`.
MAX_THREADS = 16


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

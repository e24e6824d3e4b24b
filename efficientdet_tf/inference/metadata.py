"""Our metadata in a .tflite or .onnx file, which make it self-contained."""

import dataclasses
import json

from efficientdet_tf.config import Config
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.errors import UserError

# Name of the entry among the metadata of a file, UTF-8 JSON.
ENTRY = "EFFICIENTDET"
# Sections of the config that a model's user needs; the others have paths of the one who trained it.
_SECTIONS = ("model", "anchors", "detection")


class MetadataError(UserError):
    """A model file without our metadata."""


@dataclasses.dataclass(frozen=True)
class Metadata:
    """Metadata needed to run the model.

    Attributes:
      config: settings, of which `model`, `anchors` and `detection` are embedded.
      label_map: class index of the output -> category id and name.
    """

    config: Config
    label_map: LabelMap

    def to_json(self) -> str:
        """Serialise to a JSON object."""
        sections = self.config.to_dict()
        return json.dumps(
            {
                **{name: sections[name] for name in _SECTIONS},
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
            config = Config.from_dict({name: values[name] for name in _SECTIONS})
            label_map = LabelMap.from_json(json.dumps(values["label_map"]))
        except (ValueError, KeyError, TypeError, UserError) as error:
            raise MetadataError(f"metadata {ENTRY}: damaged: {error}") from error
        return cls(config, label_map)

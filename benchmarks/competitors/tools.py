"""The tools that `benchmarks.against` compares: what they need, and how they are called.

Each tool is a script, which trains and detects in a process of its own and imports only its own
packages. It gets a JSON file with an `action`, `train` or `predict`, and writes its answer to the
JSON file `answer` that is named there:

- `train`: `folder` to write to, `epochs`, `seed`, `image_size`, the converted data set in `data`
  and the original one in `train_data` and `val_data`, `num_images` of the training set, and
  `classes` with `id` and `name`. The answer has `version`, `parameters` and `input`.
- `predict`: the same, and `images` with `id` and `path`. The answer has `detections`, with `image`,
  `class` (name), `box` (x, y, width, height in pixels of the image) and `score`, and `seconds` of
  the processor for each image, alone, from its file to its detections.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping

from efficientdet_tf.metrics_history import read_history

LOG = "train.log"
_FOLDER = pathlib.Path(__file__).parent
RANDOM = "random"


@dataclasses.dataclass(frozen=True)
class Tool:
    """A tool that trains detectors.

    Attributes:
      title: name in the table.
      licence: licence of the tool, as SPDX names it.
      script: file name of its script.
      epochs_done: function of the folder of a training that counts its complete epochs so far.
      initial_weights: what the training starts from.
      environment: name of its virtual environment; "" for the interpreter of the benchmark.
      requirements: what pip installs there, with exact releases.
      data_format: format of `data convert` that it reads; "" for the original data set.
      options: further entries of its request.
      lacks: why it cannot be run at all; "" if it can. Default "".
    """

    title: str
    licence: str
    script: str = ""
    epochs_done: Callable[[pathlib.Path], int] = lambda folder: 0
    initial_weights: str = RANDOM
    environment: str = ""
    requirements: tuple[str, ...] = ()
    data_format: str = ""
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    lacks: str = ""

    @property
    def script_path(self) -> pathlib.Path:
        """Path of its script."""
        return _FOLDER / self.script


def _in_metrics(folder: pathlib.Path) -> int:
    return len(read_history(folder / "metrics.csv").epochs)


def _in_results(folder: pathlib.Path) -> int:
    path = folder / "run" / "results.csv"
    # The first line has the names of the columns.
    return max(0, _text(path).count("\n") - 1)


def _in_log(folder: pathlib.Path) -> int:
    return _text(folder / LOG).count("steps/sec:")


def _text(path: pathlib.Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _efficientdet(title: str, initial_weights: str, pretrained: str) -> Tool:
    return Tool(
        title=title,
        licence="Apache-2.0",
        script="efficientdet_script.py",
        epochs_done=_in_metrics,
        initial_weights=initial_weights,
        options={"model": "efficientdet-lite0", "pretrained": pretrained},
    )


def _yolo(model: str) -> Tool:
    return Tool(
        title=f"Ultralytics {model}",
        licence="AGPL-3.0",
        script="yolo_script.py",
        epochs_done=_in_results,
        environment="ultralytics",
        # With OpenCV for machines without a screen; otherwise the same as `ultralytics`.
        requirements=(
            "ultralytics-opencv-headless==8.4.190",
            "torch==2.14.1",
            "torchvision==0.29.1",
        ),
        data_format="yolo",
        options={"model": f"{model}.yaml"},
    )


TOOLS = {
    "efficientdet": _efficientdet("EfficientDet-Lite0, here", RANDOM, ""),
    "yolo11": _yolo("yolo11n"),
    "yolo26": _yolo("yolo26n"),
    # Already required here, so that it needs no environment of its own.
    "retinanet": Tool(
        title="tf-models-official RetinaNet, SpineNet-49 mobile",
        licence="Apache-2.0",
        script="retinanet_script.py",
        epochs_done=_in_log,
        data_format="tfrecord",
    ),
    "efficientdet_imagenet": _efficientdet(
        "EfficientDet-Lite0, here", "**ImageNet backbone**, as no other row has", "imagenet"
    ),
    "automl": Tool(
        title="google/automl EfficientDet",
        licence="Apache-2.0",
        lacks="its sources are in no package registry",
    ),
}

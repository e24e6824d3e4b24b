"""Export to a folder that TensorFlow Serving serves: versions, warm-up, configuration."""

import pathlib

import numpy as np
import tensorflow as tf
import tf_keras as keras

from efficientdet_tf.config import Config
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.errors import UserError
from export import saved_model

# Name under which clients ask for the model.
MODEL_NAME = "detector"
WARMUP = "tf_serving_warmup_requests"
_WARMUP_SIZE = (480, 640)
_FILES = {
    "models.config": f"""\
model_config_list {{
  config {{
    name: "{MODEL_NAME}"
    base_path: "/models/{MODEL_NAME}"
    model_platform: "tensorflow"
  }}
}}
""",
    # Images of a batch share the cores; waiting longer for more of them only delays the first.
    "batching.config": """\
max_batch_size { value: 8 }
batch_timeout_micros { value: 2000 }
num_batch_threads { value: 2 }
max_enqueued_batches { value: 100 }
""",
}


def export(
    model: keras.Model, config: Config, label_map: LabelMap, path: pathlib.Path
) -> pathlib.Path:
    """Write a version of a served model: the result of `saved_model.export`, with a warm-up.

    Servers run the request in `assets.extra/tf_serving_warmup_requests` before they answer
    others, so that the first client does not wait for TensorFlow to optimise the graph.

    Args:
      model, config, label_map: see `saved_model.export`.
      path: folder of the version, a number, to create.

    Returns:
      `path`.

    Raises:
      UserError: if tensorflow-serving-api is not installed; the message is one line.
    """
    try:
        from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
    except ImportError as error:
        raise UserError(
            "--format=serving: needs tensorflow-serving-api; run pip install '.[serving]'"
        ) from error
    saved_model.export(model, config, label_map, path)
    request = predict_pb2.PredictRequest()
    request.model_spec.name = MODEL_NAME
    request.model_spec.signature_name = "serving_default"
    image = np.random.default_rng(0).integers(0, 256, (*_WARMUP_SIZE, 3), np.uint8)
    encoded = tf.io.encode_jpeg(image).numpy()
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([encoded]))
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.CopyFrom(request)
    with tf.io.TFRecordWriter(str(path / "assets.extra" / WARMUP)) as writer:
        writer.write(log.SerializeToString())
    return path


def write_configuration(folder: pathlib.Path) -> None:
    """Write `models.config` and `batching.config` beside the versions, where servers skip them.

    Files that are there are kept: their values are for users to change.
    """
    for name, text in _FILES.items():
        if not (folder / name).exists():
            (folder / name).write_text(text, encoding="utf-8")


def is_own(path: pathlib.Path) -> bool:
    """Whether a folder has versions and configuration written by this module, and nothing else.

    Hidden folders of an export that was killed do not count; servers skip them.
    """
    return path.is_dir() and all(
        item.name in _FILES or (item.name.isdecimal() and saved_model.is_own(item))
        for item in path.iterdir()
        if not item.name.startswith(".")
    )

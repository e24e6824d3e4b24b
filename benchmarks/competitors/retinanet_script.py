"""Training and detection by the RetinaNet of tf-models-official; see `benchmarks.against`.

    python retinanet_script.py REQUEST.json

It imports nothing of this project. The experiment is `retinanet_mobile_coco`: SpineNet-49 mobile
with separable convolutions, of which an epoch takes a CPU about as long as one of
EfficientDet-Lite0. Those of ResNet with FPN, with heads of 256 filters, were not tried: they
compute many times as much for an image.
"""

import importlib.metadata
import json
import os
import pathlib
import sys
import time

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

import tensorflow as tf
import tf_keras as keras
from official.core import exp_factory, task_factory, train_lib
from official.modeling import optimization
from official.vision.configs import retinanet  # noqa: F401, registers the experiment
from official.vision.serving import detection
from official.vision.tasks import retinanet as retinanet_task  # noqa: F401, registers the task

BATCH_SIZE = 8
# Stride of the coarsest level. The library pads an input to a multiple of it.
STRIDE = 128


def experiment(request: dict):
    """Return the experiment with the data, the length and a schedule for it.

    The published schedule, 277,000 steps of 256 images by SGD with a warm-up of 2,000, is not for
    a few hundred steps of 8. The optimizer, its rate and the range of scales are those that this
    project's recipe has for small data sets.
    """
    config = exp_factory.get_exp_config("retinanet_mobile_coco")
    steps_per_epoch = request["num_images"] // BATCH_SIZE
    steps = request["epochs"] * steps_per_epoch
    task, trainer = config.task, config.trainer
    task.annotation_file = None
    task.model.num_classes = 1 + max(item["id"] for item in request["classes"])
    task.model.input_size = [*_input_size(request), 3]
    task.model.norm_activation.use_sync_bn = False
    # As the metric wants them: low scores, too.
    task.model.detection_generator.pre_nms_score_threshold = 0.001
    task.train_data.input_path = str(pathlib.Path(request["data"]) / "train*.tfrecord")
    task.train_data.global_batch_size = BATCH_SIZE
    task.train_data.dtype = "float32"
    task.train_data.shuffle_buffer_size = 1000
    task.train_data.seed = request["seed"]
    task.train_data.parser.aug_scale_min = 0.6
    task.train_data.parser.aug_scale_max = 1.6
    trainer.train_steps = steps
    trainer.steps_per_loop = trainer.summary_interval = steps_per_epoch
    trainer.checkpoint_interval = steps
    trainer.optimizer_config = optimization.OptimizationConfig(
        {
            "optimizer": {"type": "adam"},
            "learning_rate": {
                "type": "cosine",
                "cosine": {"initial_learning_rate": 0.002, "decay_steps": steps},
            },
            "warmup": {"type": "linear", "linear": {"warmup_steps": steps_per_epoch}},
        }
    )
    return config


def train(request: dict) -> dict:
    """Train by the library's own loop."""
    keras.utils.set_random_seed(request["seed"])
    config = experiment(request)
    task = task_factory.get_task(config.task)
    model, _ = train_lib.run_experiment(
        distribution_strategy=tf.distribute.OneDeviceStrategy("/cpu:0"),
        task=task,
        mode="train",
        params=config,
        model_dir=request["folder"],
        run_post_eval=False,
        save_summary=False,
    )
    tf.train.Checkpoint(model=model).write(_weights(request))
    return {
        "version": importlib.metadata.version("tf-models-official"),
        "parameters": sum(int(values.shape.num_elements()) for values in model.trainable_weights),
        "input": "{1} x {0}".format(*_input_size(request)),
    }


def predict(request: dict) -> dict:
    """Detect by the module that the library exports for serving."""
    config = experiment(request)
    config.task.export_config.output_normalized_coordinates = True
    model = task_factory.get_task(config.task).build_model()
    size = _input_size(request)
    module = detection.DetectionModule(
        params=config, batch_size=1, input_image_size=size, input_type="image_bytes", model=model
    )
    tf.train.Checkpoint(model=model).read(_weights(request)).expect_partial()
    names = {item["id"]: item["name"] for item in request["classes"]}
    _detect(module, request["images"][0])
    detections, seconds = [], []
    for image in request["images"]:
        began = time.process_time()
        boxes, scores, classes = _detect(module, image)
        seconds.append(time.process_time() - began)
        for (top, left, bottom, right), score, index in zip(boxes, scores, classes):
            box = [left, top, right - left, bottom - top]
            # 0 is the background; a number between two categories is none.
            if label := names.get(index):
                found = {"image": image["id"], "class": label, "box": box, "score": score}
                detections.append(found)
    return {"detections": detections, "seconds": seconds}


def _detect(module: detection.DetectionModule, image: dict) -> tuple[list, list, list]:
    """Return boxes in pixels of the image, scores, and category ids, of an image file."""
    encoded = tf.io.read_file(image["path"])[None]
    found = {
        key: value.numpy()[0] for key, value in module.inference_from_image_bytes(encoded).items()
    }
    count = int(found["num_detections"])
    height, width = found["image_info"][0]
    boxes = found["detection_boxes"][:count] * [height, width, height, width]
    scores, classes = (found[f"detection_{key}"][:count] for key in ("scores", "classes"))
    return boxes.tolist(), scores.tolist(), classes.astype(int).tolist()


def _input_size(request: dict) -> list[int]:
    """Return height and width: at least those asked for, which is 384 for 320, as published."""
    return [-(-request["image_size"] // STRIDE) * STRIDE] * 2


def _weights(request: dict) -> str:
    return str(pathlib.Path(request["folder"]) / "last")


if __name__ == "__main__":
    asked = json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
    answer = {"train": train, "predict": predict}[asked["action"]](asked)
    pathlib.Path(asked["answer"]).write_text(json.dumps(answer), encoding="utf-8")

"""Training and detection by this project, in a process of its own; see `benchmarks.against`.

python -m benchmarks.competitors.efficientdet_script REQUEST.json
"""

import json
import os
import pathlib
import sys
import time

# Otherwise TensorFlow imports Keras 3, which nothing here uses.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

import efficientdet_tf
from efficientdet_tf.config import Config
from efficientdet_tf.detector import Detector
from efficientdet_tf.run_directory import RunDirectory


def train(request: dict) -> dict:
    """Train with the preset `finetune`, which `--hours` chooses for small data sets."""
    from efficientdet_tf.training.train import train as train_run

    config = Config.from_yaml("finetune", request["model"]).override(
        {
            "data.train": request["train_data"],
            "data.val": request["val_data"],
            "data.cache": True,
            "data.verify": "header",
            "model.image_size": request["image_size"],
            "training.epochs": request["epochs"],
            "training.eval_interval_epochs": request["epochs"],
            "training.keep_checkpoints": 1,
            "training.pretrained": request["pretrained"],
            "training.seed": request["seed"],
        }
    )
    train_run(config, request["folder"])
    model = RunDirectory(request["folder"]).load_model("last")
    return {
        "version": efficientdet_tf.__version__,
        "parameters": sum(int(values.shape.num_elements()) for values in model.trainable_weights),
        "input": "{1} x {0}".format(*config.model.image_size),
    }


def predict(request: dict) -> dict:
    """Detect with the weights at the end, which were not chosen by the validation set."""
    detector = Detector.from_run(RunDirectory(request["folder"]), "last")
    detector.detect(request["images"][0]["path"])
    detections, seconds = [], []
    for image in request["images"]:
        began = time.process_time()
        [found] = detector.detect(image["path"], batch_size=1)
        seconds.append(time.process_time() - began)
        columns = found.boxes.tolist(), found.scores.tolist(), found.class_indices.tolist()
        for (top, left, bottom, right), score, index in zip(*columns):
            box = [left, top, right - left, bottom - top]
            label = detector.label_map.names[index]
            detections.append({"image": image["id"], "class": label, "box": box, "score": score})
    return {"detections": detections, "seconds": seconds}


if __name__ == "__main__":
    asked = json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
    answer = {"train": train, "predict": predict}[asked["action"]](asked)
    pathlib.Path(asked["answer"]).write_text(json.dumps(answer), encoding="utf-8")

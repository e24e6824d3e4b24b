"""Training and detection by Ultralytics, in an environment of its own; see `benchmarks.against`.

    python yolo_script.py REQUEST.json

It imports nothing of this project. Nothing is downloaded: the network is built from the YAML file
of its package, with random weights, and plots, which want a font, are off.
"""

import json
import os
import pathlib
import sys
import time

# Before the import, which would look for the network, and install packages by itself.
os.environ |= {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}

import ultralytics
from ultralytics import YOLO


def train(request: dict) -> dict:
    """Train with Ultralytics' defaults for all but the length and the input size."""
    model = YOLO(request["model"])
    epochs = request["epochs"]
    model.train(
        data=str(pathlib.Path(request["data"]) / "data.yaml"),
        epochs=epochs,
        imgsz=request["image_size"],
        seed=request["seed"],
        # Mosaic ends 10 epochs before the training does; in a shorter one it would never begin.
        close_mosaic=10 if epochs > 20 else 0,
        # No weights are chosen by the images on which all are compared; the end has one in any
        # case.
        val=False,
        patience=0,
        pretrained=False,
        plots=False,
        cache="ram",
        device="cpu",
        # Processes of their own, whose time would not count.
        workers=0,
        project=request["folder"],
        name="run",
        exist_ok=True,
    )
    return {
        "version": ultralytics.__version__,
        "parameters": sum(values.numel() for values in model.model.parameters()),
        "input": f"{request['image_size']} x {request['image_size']}",
    }


def predict(request: dict) -> dict:
    """Detect with the settings of Ultralytics' own validation: scores from 0.001, IoU 0.7."""
    model = YOLO(pathlib.Path(request["folder"]) / "run" / "weights" / "last.pt")
    settings = {"conf": 0.001, "iou": 0.7, "max_det": 100, "imgsz": request["image_size"]}
    settings |= {"device": "cpu", "verbose": False}
    model.predict(request["images"][0]["path"], **settings)
    detections, seconds = [], []
    for image in request["images"]:
        began = time.process_time()
        [found] = model.predict(image["path"], **settings)
        seconds.append(time.process_time() - began)
        columns = found.boxes.xyxy.tolist(), found.boxes.conf.tolist(), found.boxes.cls.tolist()
        for (left, top, right, bottom), score, index in zip(*columns):
            box = [left, top, right - left, bottom - top]
            label = found.names[int(index)]
            detections.append({"image": image["id"], "class": label, "box": box, "score": score})
    return {"detections": detections, "seconds": seconds}


if __name__ == "__main__":
    asked = json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
    answer = {"train": train, "predict": predict}[asked["action"]](asked)
    pathlib.Path(asked["answer"]).write_text(json.dumps(answer), encoding="utf-8")

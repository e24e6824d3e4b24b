"""Summary printed before training."""

import pathlib

from efficientdet_tf.config import Config
from efficientdet_tf.data import digits, input_size
from efficientdet_tf.training import summary
from efficientdet_tf.training.train import compiled_model


def test_summary_has_the_run_and_the_settings_that_differ():
    config = Config.for_model("efficientdet-lite0").override(
        {
            "model.num_classes": 10,
            "model.image_size": "64x96",
            "model.max_level": 5,
            "model.backbone_width": 0.5,
            "model.backbone_depth": 0.1,
            "neck.num_filters": 16,
            "neck.num_repeats": 1,
            "model.head_repeats": 1,
            "loss.class_weight_values": [1.0] * 10,
            "data.train": "digits",
            "data.val": "digits",
            "data.cache": True,
            "training.batch_size": 4,
            "detection.max_detections": 1,
        }
    )
    train_data, val_data = digits.load("train", num_images=8), digits.load("val", num_images=3)
    model = compiled_model(config, steps=2)
    parameters = sum(weight.shape.num_elements() for weight in model.weights)
    text = summary.describe(model, config, train_data, val_data, 2, pathlib.Path("runs/mine"))
    assert text.splitlines() == [
        f"model: efficientdet-lite0, 64x96 pixels, {parameters:,} parameters, 10 classes",
        "training data: digits, 8 images",
        "validation data: digits, 3 images",
        "limit: detection.max_detections=1: 3 images have more objects, up to 8, and 13 of all 16 "
        "cannot be detected; --set detection.max_detections=100, in training and evaluation",
        "training: 300 epochs of 2 steps, batches of 4 images",
        "devices: 1 (auto), float32",
        "run directory: runs/mine",
        "settings that differ from the defaults of efficientdet-lite0:",
        "  model.image_size [64, 96] (default [320, 320])",
        "  model.backbone_width 0.5 (default 1.0)",
        "  model.backbone_depth 0.1 (default 1.0)",
        "  model.head_repeats 1 (default 3)",
        "  model.max_level 5 (default 7)",
        "  neck.num_filters 16 (default 64)",
        "  neck.num_repeats 1 (default 3)",
        "  data.train digits (default '')",
        "  data.val digits (default '')",
        "  data.cache true (default false)",
        "  training.batch_size 4 (default 64)",
        "  detection.max_detections 1 (default 100)",
    ]


def test_advice_on_few_steps_of_sgd_on_random_frozen_weights_and_on_the_size_of_objects():
    data = digits.load("train", num_images=8)
    published = Config.for_model("efficientdet-lite0").override({"model.image_size": 512})
    assert summary.advise(published, data, 100) == [
        "advice: 8 images in 30,000 steps are few for sgd; they are learned better with "
        "--config=finetune or --hours"
    ]
    config = published.override({"optimizer.learning_rate": 0.1})
    assert summary.advise(config, data, 8) == []
    assert summary.advise(config, data, 7) == [
        "advice: 8 images in 2,100 steps are few for sgd; they are learned better with "
        "--config=finetune or --hours"
    ]
    frozen = config.override({"model.freeze": "backbone/.*"})
    assert summary.advise(frozen, data, 8) == [
        "advice: model.freeze keeps random weights; start from trained ones with --pretrained"
    ]
    assert summary.advise(frozen.override({"training.pretrained": "imagenet"}), data, 8) == []
    small = Config.from_yaml("finetune").override({"model.image_size": "64x96"})
    recall = input_size.measure(small, data.records, (64, 96)).recall
    assert recall < 0.5
    assert summary.advise(small, data, 1) == [
        f"advice: anchors fit {recall:.0%} of the objects at 64x96 pixels; a larger input "
        "(--set model.image_size=auto) or --set anchors.auto=true covers more"
    ]

"""Values of settings: read from text, given their type, held to their range."""

import difflib
import math
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from efficientdet_tf.backbones import BACKBONES
from efficientdet_tf.errors import UserError
from keras_layers.feature_network import METHODS, NETWORKS


class ConfigError(UserError):
    """A configuration that cannot be used."""


_CHOICES = {
    "model.backbone": tuple(BACKBONES),
    "neck.name": tuple(NETWORKS),
    "neck.fusion": METHODS,
    "model.activation": ("swish", "relu6", "relu"),
    "loss.iou_loss": ("none", "iou", "giou", "diou", "ciou"),
    "loss.class_weights": ("none", "inverse", "effective"),
    "data.verify": ("full", "header"),
    "augmentation.policy": ("none", "v0", "v1", "v2", "v3", "rand"),
    "optimizer.name": ("sgd", "adam", "lamb", "sgdw", "radam"),
    "optimizer.schedule": ("cosine", "cosine_reference", "polynomial", "stepwise"),
    "training.precision": ("float32", "mixed_float16", "mixed_bfloat16"),
    "training.strategy": ("auto", "cpu", "gpu", "mirrored", "multi_worker", "tpu"),
    "detection.nms": ("gaussian", "hard"),
    "detection.nms_scope": ("per_class", "global"),
}
# Inclusive bounds; of a list, for each value.
_INF = math.inf
_RANGES = {
    "model.num_classes": (1, _INF),
    "neck.num_filters": (1, _INF),
    "neck.num_repeats": (1, _INF),
    "model.head_repeats": (1, _INF),
    "model.backbone_width": (0.1, _INF),
    "model.backbone_depth": (0.1, _INF),
    "model.backbone_survival_prob": (0.01, 1),
    "model.pixel_std": (1e-3, _INF),
    "anchors.scale": (0.01, _INF),
    "anchors.num_scales": (1, _INF),
    "anchors.aspect_ratios": (0.01, _INF),
    "anchors.positive_iou_threshold": (0, 1),
    "loss.focal_alpha": (0, 1),
    "loss.focal_gamma": (0, _INF),
    "loss.label_smoothing": (0, 1),
    "loss.huber_delta": (1e-6, _INF),
    "loss.box_weight": (0, _INF),
    "loss.iou_weight": (0, _INF),
    "loss.class_weight_values": (0, _INF),
    "augmentation.scale_min": (0.01, _INF),
    "augmentation.rand_num_layers": (1, 10),
    "augmentation.rand_magnitude": (0, 10),
    "augmentation.color": (0, 1),
    "augmentation.blur": (0, 1),
    "augmentation.sharpness": (0, 1),
    "augmentation.mosaic": (0, 1),
    "augmentation.mixup": (0, 1),
    "augmentation.grid_mask": (0, 1),
    "optimizer.lookahead": (0, _INF),
    "optimizer.learning_rate": (0, _INF),
    "optimizer.reference_batch_size": (1, _INF),
    "optimizer.backbone_factor": (0, _INF),
    "optimizer.momentum": (0, 1),
    "optimizer.warmup_epochs": (0, _INF),
    "optimizer.warmup_fraction": (0, 1),
    "optimizer.weight_decay": (0, _INF),
    "optimizer.clip_norm": (0, _INF),
    "optimizer.ema_decay": (0, 1),
    "training.epochs": (1, _INF),
    "training.batch_size": (1, _INF),
    "training.steps_per_epoch": (0, _INF),
    "training.eval_interval_epochs": (1, _INF),
    "training.eval_batch_size": (1, _INF),
    "training.patience": (0, _INF),
    "training.histogram_interval_epochs": (0, _INF),
    "training.keep_checkpoints": (1, _INF),
    "training.checkpoint_interval_steps": (0, _INF),
    "training.gradient_accumulation_steps": (1, _INF),
    "training.seed": (0, 2**31 - 1),
    "detection.iou_threshold": (0, 1),
    "detection.sigma": (0, _INF),
    "detection.score_threshold": (0, 1),
    "detection.pre_nms_top_k": (0, _INF),
    "detection.max_detections": (1, _INF),
}


def coerce(key: str, value: Any, wanted: Any) -> Any:
    """`value` as the type `wanted`; strings come from command lines or YAML."""
    origin = typing.get_origin(wanted)
    if wanted is str:
        return str(value)
    given = value
    if isinstance(value, str):
        value = from_text(key, value)
    if origin is tuple:
        return _coerce_tuple(key, value, typing.get_args(wanted))
    if wanted is dict:
        return _coerce_mapping(key, value)
    if wanted is bool and isinstance(value, bool):
        return value
    if wanted in (int, float) and not isinstance(value, bool):
        try:
            number = float(value)
            if math.isfinite(number) and (wanted is float or number == int(number)):
                return wanted(number)
        except (TypeError, ValueError, OverflowError):
            pass
    raise ConfigError(f"{key}: {given!r} is not {_TYPE_NAMES[wanted]}")


_TYPE_NAMES = {bool: "true or false", int: "a whole number", float: "a number"}


def _coerce_mapping(key: str, value: Any) -> dict:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ConfigError(f"{key}: {value!r} is not names and values, e.g. {{name: value}}")
    return dict(value)


def _coerce_tuple(key: str, value: Any, item_types: tuple) -> tuple:
    variadic = len(item_types) == 2 and item_types[1] is Ellipsis
    if key == "model.image_size" and isinstance(value, int):
        value = (value, value)
    if not isinstance(value, (list, tuple)) or not (variadic or len(value) == len(item_types)):
        count = "a list" if variadic else f"{len(item_types)} values"
        raise ConfigError(f"{key}: {value!r} is not {count}, e.g. [1, 2]")
    item_type = item_types[0]
    return tuple(coerce(key, item, item_type) for item in value)


def from_text(key: str, text: str) -> Any:
    """Read a setting's text as YAML."""
    if key == "model.image_size" and "x" in text:
        return [part.strip() for part in text.split("x")]
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{key}: cannot read {text!r}") from error


def check(key: str, value: Any) -> None:
    """Raises `ConfigError` for a value that is none of its choices or out of its range."""
    choices = _CHOICES.get(key)
    if choices and value not in choices:
        raise ConfigError(f"{key}: {value!r} is not one of {', '.join(choices)}")
    low, high = _RANGES.get(key, (-_INF, _INF))
    for number in value if isinstance(value, tuple) else (value,):
        if key in _RANGES and not low <= number <= high:
            side = f"below {low}" if number < low else f"above {high}"
            raise ConfigError(f"{key}: {number} is {side}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown word: the nearest known one, or all."""
    near = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"

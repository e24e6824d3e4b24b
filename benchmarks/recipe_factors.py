"""Factors of a fine-tuning recipe: changes of the base, by name; see `benchmarks.recipes`."""

from collections.abc import Callable, Sequence
from typing import Any

from efficientdet_tf.config import Config
from efficientdet_tf.errors import UserError

Settings = dict[str, Any]


def _scaled_input(factor: float) -> Callable[[Config], Settings]:
    def settings(base: Config) -> Settings:
        sides = [32 * round(side * factor / 32) for side in base.model.image_size]
        return {"model.image_size": sides}

    return settings


def _square_input(base: Config) -> Settings:
    height, width = base.model.image_size
    return {"model.image_size": 32 * round((height * width) ** 0.5 / 32)}


def _epochs(factor: float) -> Callable[[Config], Settings]:
    def settings(base: Config) -> Settings:
        epochs = round(base.training.epochs * factor)
        # With as many evaluations.
        interval = max(1, round(base.training.eval_interval_epochs * factor))
        return {"training.epochs": epochs, "training.eval_interval_epochs": interval}

    return settings


def _rate(factor: float) -> Callable[[Config], Settings]:
    return lambda base: {"optimizer.learning_rate": factor * base.optimizer.learning_rate}


def _jitter(least: float, most: float) -> Settings:
    return {"augmentation.scale_min": least, "augmentation.scale_max": most}


def _plain_end(base: Config) -> Settings:
    return {"augmentation.plain_epochs": max(1, round(base.training.epochs / 5))}


def _iou_loss(kind: str, weight: float, box_weight: float | None = None) -> Settings:
    settings = {"loss.iou_loss": kind, "loss.iou_weight": weight}
    return settings if box_weight is None else settings | {"loss.box_weight": box_weight}


FACTORS: dict[str, Settings | Callable[[Config], Settings]] = {
    # `finetune` until its rate and BatchNorm's momentum were measured.
    "first-finetune": {"optimizer.learning_rate": 0.002, "training.batch_norm_momentum": 0.99},
    # Weights at the start, and which of them are trained.
    "scratch": {"training.pretrained": ""},
    "bn-momentum-0.99": {"training.batch_norm_momentum": 0.99},
    "bn-frozen": {"model.freeze": r"backbone/.*_bn/.*"},
    "backbone-frozen": {"model.freeze": "backbone/.*"},
    "backbone-lr-0.1": {"optimizer.backbone_factor": 0.1},
    "backbone-lr-0.3": {"optimizer.backbone_factor": 0.3},
    "survival-1": {"model.backbone_survival_prob": 1.0},
    # Optimizer.
    "ema-off": {"optimizer.ema_decay": 0.0},
    "ema-0.99": {"optimizer.ema_decay": 0.99},
    "rate-half": _rate(0.5),
    "rate-double": _rate(2.0),
    "warmup-5": {"optimizer.warmup_epochs": 5.0},
    "sgd-0.02": {"optimizer.name": "sgd", "optimizer.learning_rate": 0.02},
    "lamb-0.01": {"optimizer.name": "lamb", "optimizer.learning_rate": 0.01},
    "weight-decay-0": {"optimizer.weight_decay": 0.0},
    "weight-decay-4e-4": {"optimizer.weight_decay": 4e-4},
    # Augmentation.
    "jitter-off": _jitter(1.0, 1.0),
    "jitter-0.8-1.25": _jitter(0.8, 1.25),
    "jitter-0.1-2": _jitter(0.1, 2.0),
    "mosaic": {"augmentation.mosaic": 0.5},
    "mixup": {"augmentation.mixup": 0.3},
    "copy-paste": {"augmentation.copy_paste": 0.5},
    # Of what the other factors have on.
    "plain-end": _plain_end,
    "mosaic-plain-end": lambda base: {"augmentation.mosaic": 0.5} | _plain_end(base),
    "rand-augment": {"augmentation.policy": "rand"},
    "autoaugment-v1": {"augmentation.policy": "v1"},
    "color": {"augmentation.color": 0.4},
    # Losses. As published, IoU losses are divided by four: 4 is 1 for each positive anchor.
    "giou": _iou_loss("giou", 4.0),
    "diou": _iou_loss("diou", 4.0),
    "ciou": _iou_loss("ciou", 4.0),
    "giou-alone": _iou_loss("giou", 8.0, 0.0),
    "diou-alone": _iou_loss("diou", 8.0, 0.0),
    "ciou-alone": _iou_loss("ciou", 8.0, 0.0),
    "label-smoothing-0.1": {"loss.label_smoothing": 0.1},
    # What costs time.
    "anchors-auto": {"anchors.auto": True},
    "epochs-half": _epochs(0.5),
    "epochs-double": _epochs(2.0),
    "epochs-triple": _epochs(3.0),
    "input-1.5": _scaled_input(1.5),
    "input-square": _square_input,
}
# Factors of the screening design: none sets what another sets, and none is so bad in a short
# training that it would hide the others.
SCREENED = (
    *("bn-momentum-0.99", "bn-frozen", "backbone-lr-0.3", "ema-0.99", "rate-double"),
    *("weight-decay-4e-4", "jitter-0.8-1.25", "mosaic", "mixup", "copy-paste", "plain-end"),
    *("rand-augment", "color", "giou", "label-smoothing-0.1", "anchors-auto"),
)


def apply(base: Config, factors: Sequence[str]) -> Config:
    """Return the config of a run: the base with its factors on.

    Raises:
      UserError: if two factors set the same setting.
    """
    settings: Settings = {}
    for factor in factors:
        change = FACTORS[factor]
        change = change(base) if callable(change) else change
        if twice := sorted(settings.keys() & change.keys()):
            raise UserError(f"--factors: {factor} sets {twice[0]}, which another factor sets too")
        settings |= change
    return base.override(settings)

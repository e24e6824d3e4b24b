"""EfficientDet: images -> backbone -> feature network -> heads."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tf_keras as keras

from efficientdet_tf.backbones import build_backbone
from efficientdet_tf.config import Config, ConfigError
from keras_layers.conv_block import ConvBlock
from keras_layers.feature_network import build_feature_network, name_setting
from keras_layers.heads import PredictionHead
from keras_layers.level_maps import box_map, class_map
from keras_layers.pixels import NormalizePixels
from keras_layers.resample import ExtraLevels

# Probability that the untrained class head gives every anchor and class (focal-loss paper,
# section 4.1).
PRIOR_PROBABILITY = 0.01


@tf.autograph.experimental.do_not_convert
def build(config: Config, model_class: type[keras.Model] = keras.Model) -> keras.Model:
    """Build the untrained network of a config.

    Input: float32 [B, H, W, 3], RGB on the 0..255 scale, padded with the mean
    colour; (H, W) is `config.model.image_size`.

    Output: dict of float32 raw outputs, for each level L from `min_level` to
    `max_level`: `cls_L` [B, h, w, anchors * classes], class logits, and `box_L`
    [B, h, w, anchors * 4], (ty, tx, th, tw) relative to the anchors.

    Args:
      config: settings; `model`, `neck` and `anchors` are read.
      model_class: class of the Keras model. Training uses the one with the detection
        training step, `efficientdet_tf.training.detection_model.EfficientDet`.

    Returns:
      A Keras model whose layers are `pixels`, `backbone`, `extra_levels`,
      `feature_network`, `class_head` and `box_head`.

    Raises:
      ConfigError: for invalid settings of the backbone or the neck.
    """
    model = config.model
    images = keras.Input((*model.image_size, 3), name="images", dtype="float32")
    normalized = NormalizePixels(model.pixel_mean, model.pixel_std, name="pixels")(images)
    features = _pyramid(config, normalized, _backbone(config))
    outputs = {}
    for name_of, head in _heads(config):
        for level, x in head(features).items():
            name = name_of(level)
            # Losses and decoding need float32 under every precision policy.
            outputs[name] = keras.layers.Activation("linear", dtype="float32", name=name)(x)
    return model_class(images, outputs, name=model.name.replace("-", "_"))


@tf.autograph.experimental.do_not_convert
def build_feature_pyramid(config: Config) -> keras.Model:
    """Build backbone and feature network of a config, untrained and without heads.

    Input: float32 [B, H, W, 3], normalised; (H, W) is `config.model.image_size`.

    Output: dict {level: float [B, h, w, C]} of `min_level` to `max_level`.

    Returns:
      A Keras model with the layers `backbone`, `extra_levels` and `feature_network`.

    Raises:
      ConfigError: for invalid settings of the backbone or the neck.
    """
    images = keras.Input((*config.model.image_size, 3), name="images")
    return keras.Model(images, _pyramid(config, images, _backbone(config)))


def _backbone(config: Config) -> keras.layers.Layer:
    model = config.model
    try:
        return build_backbone(
            model.backbone,
            survival_prob=model.backbone_survival_prob,
            width=model.backbone_width,
            depth=model.backbone_depth,
        )
    except ValueError as error:
        raise ConfigError(f"model.backbone: {error}") from error


def _pyramid(config: Config, images: tf.Tensor, backbone: keras.layers.Layer) -> dict:
    """Apply backbone, extra levels and feature network."""
    neck = config.neck
    try:
        network = build_feature_network(
            neck.name,
            neck.options,
            num_filters=neck.num_filters,
            num_repeats=neck.num_repeats,
            fusion=neck.fusion,
            activation=config.model.activation,
        )
        extra_levels = ExtraLevels(
            neck.num_filters,
            config.model.max_level,
            network.projection_block(),
            project=network.reads_extra_levels,
            conv_after_downsample=network.conv_after_downsample,
            min_level=config.model.min_level,
            name="extra_levels",
        )
        pyramid = network.from_images(images, backbone, extra_levels)
    except ValueError as error:
        raise ConfigError(f"neck.{name_setting(neck.name, error)}") from error
    # Of the known backbones the config knows it.
    if (finest := min(pyramid)) != config.model.min_level:
        raise ConfigError(f"model.min_level: the finest of {config.model.backbone} is {finest}")
    return pyramid


def _heads(config: Config) -> list[tuple[Callable[[int], str], PredictionHead]]:
    """Build the heads, each with the function that names its output of a level."""
    model = config.model
    num_anchors = config.anchors.num_scales * len(config.anchors.aspect_ratios)
    common: dict[str, Any] = dict(
        num_filters=config.neck.num_filters,
        num_repeats=model.head_repeats,
        conv_block=ConvBlock(
            separable=model.head_separable,
            norm=model.head_norm,
            activation=model.activation,
            order="conv_bn_act",
        ),
    )
    class_head = PredictionHead(
        num_anchors * model.num_classes,
        prior_probability=PRIOR_PROBABILITY,
        name="class_head",
        **common,
    )
    box_head = PredictionHead(num_anchors * 4, name="box_head", **common)
    return [(class_map, class_head), (box_map, box_head)]

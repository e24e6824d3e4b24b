"""EfficientNet B0 to B7 and Lite0 to Lite4 from one block table.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural
Networks", 2019; Lite: no squeeze-excite, ReLU6, stem and head not scaled.
"""

import math
from typing import Any, NamedTuple

import tensorflow as tf
import tf_keras as keras

from keras_layers.averages import average
from keras_layers.batch_norm import batch_norm
from keras_layers.gradient_checkpointing import recomputed
from keras_layers.stochastic_depth import StochasticDepth


class Stage(NamedTuple):
    """Sequence of blocks of one width; the first block has the stride."""

    repeats: int
    kernel_size: int
    strides: int
    expand_ratio: int
    filters: int


# The paper's table 1.
STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
STEM_FILTERS = 32
SQUEEZE_RATIO = 0.25

# name: (width coefficient, depth coefficient)
SCALES = {
    "efficientnet-b0": (1.0, 1.0),
    "efficientnet-b1": (1.0, 1.1),
    "efficientnet-b2": (1.1, 1.2),
    "efficientnet-b3": (1.2, 1.4),
    "efficientnet-b4": (1.4, 1.8),
    "efficientnet-b5": (1.6, 2.2),
    "efficientnet-b6": (1.8, 2.6),
    "efficientnet-b7": (2.0, 3.1),
    "efficientnet-lite0": (1.0, 1.0),
    "efficientnet-lite1": (1.0, 1.1),
    "efficientnet-lite2": (1.1, 1.2),
    "efficientnet-lite3": (1.2, 1.4),
    "efficientnet-lite4": (1.4, 1.8),
}


def round_filters(filters: int, width: float) -> int:
    """Round the scaled width to the nearest multiple of 8, never below 90 % of it."""
    scaled = filters * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


def scaled_stages(name: str, width: float = 1.0, depth: float = 1.0) -> list[Stage]:
    """Scale `STAGES` to `name`, a key of `SCALES`, and by the factors `width` and `depth`."""
    width, depth = width * SCALES[name][0], depth * SCALES[name][1]
    last = len(STAGES) - 1
    fixed = (0, last) if "lite" in name else ()
    return [
        stage._replace(
            repeats=stage.repeats if i in fixed else math.ceil(depth * stage.repeats),
            filters=round_filters(stage.filters, width),
        )
        for i, stage in enumerate(STAGES)
    ]


@keras.utils.register_keras_serializable("efficientdet")
class SqueezeExcite(keras.layers.Layer):
    """Channel attention from the global average (Hu et al., 2018).

    Args:
      squeezed_filters: width of the bottleneck.
      activation: name of a Keras activation.
    """

    def __init__(self, squeezed_filters: int, activation: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.squeezed_filters = squeezed_filters
        self.activation_name = activation
        self.activation = keras.activations.get(activation)
        self.reduce = _conv(squeezed_filters, 1, use_bias=True, name="reduce")

    def build(self, input_shape: tf.TensorShape) -> None:
        self.expand = _conv(input_shape[-1], 1, use_bias=True, name="expand")
        super().build(input_shape)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Map float [B, H, W, C] to the same shape."""
        pooled = average(x)
        return x * tf.sigmoid(self.expand(self.activation(self.reduce(pooled))))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "squeezed_filters": self.squeezed_filters,
            "activation": self.activation_name,
        }


@keras.utils.register_keras_serializable("efficientdet")
class MBConvBlock(keras.layers.Layer):
    """Inverted residual block: expand, depthwise, (squeeze-excite), project.

    Args:
      filters: width of the output.
      kernel_size, strides: kernel size and stride of the depthwise convolution. Default 3, 1.
      expand_ratio: inner width divided by input width. Default 6.
      squeeze_excite: whether the block has squeeze-excite. Default True.
      activation: name of a Keras activation. Default "swish".
      survival_prob: survival probability of the residual branch in training, 0..1. Default 1.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int = 3,
        strides: int = 1,
        expand_ratio: int = 6,
        squeeze_excite: bool = True,
        activation: str = "swish",
        survival_prob: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = kernel_size
        self.strides = strides
        self.expand_ratio = expand_ratio
        self.squeeze_excite = squeeze_excite
        self.activation_name = activation
        self.activation = keras.activations.get(activation)
        self.survival_prob = survival_prob

    def build(self, input_shape: tf.TensorShape) -> None:
        width = input_shape[-1]
        self.residual = self.strides == 1 and width == self.filters
        self.expand_conv: keras.layers.Layer | None = None
        self.se: SqueezeExcite | None = None
        if self.expand_ratio != 1:
            self.expand_conv = _conv(width * self.expand_ratio, 1, name="expand_conv")
            self.expand_norm = batch_norm("expand_bn")
        self.depthwise_conv = keras.layers.DepthwiseConv2D(
            self.kernel_size,
            self.strides,
            "same",
            use_bias=False,
            depthwise_initializer=_initializer(),
            name="depthwise_conv",
        )
        self.depthwise_norm = batch_norm("depthwise_bn")
        if self.squeeze_excite:
            squeezed = max(1, int(width * SQUEEZE_RATIO))
            self.se = SqueezeExcite(squeezed, self.activation_name, name="se")
        self.project_conv = _conv(self.filters, 1, name="project_conv")
        self.project_norm = batch_norm("project_bn")
        self.drop = StochasticDepth(self.survival_prob, name=f"{self.name}_drop")
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Map float [B, H, W, c] to float [B, ceil(H / s), ceil(W / s), filters]."""
        x = inputs
        if self.expand_conv is not None:
            x = self.activation(self.expand_norm(self.expand_conv(x), training=training))
        x = self.activation(self.depthwise_norm(self.depthwise_conv(x), training=training))
        if self.se is not None:
            x = self.se(x)
        x = self.project_norm(self.project_conv(x), training=training)
        return self.drop(x, training=training) + inputs if self.residual else x

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "expand_ratio": self.expand_ratio,
            "squeeze_excite": self.squeeze_excite,
            "activation": self.activation_name,
            "survival_prob": self.survival_prob,
        }


@keras.utils.register_keras_serializable("efficientdet")
class EfficientNet(keras.layers.Layer):
    """EfficientNet without its classifier.

    Examples:
      >>> EfficientNet("efficientnet-b0")(tf.zeros([1, 64, 64, 3]))[5].shape
      TensorShape([1, 2, 2, 320])

    Args:
      model_name: a key of `SCALES`.
      survival_prob: survival probability of the last block's residual branch, 0..1;
        increases linearly to 1 at the first block. Default 1.
      width, depth: factors of the model's coefficients, for networks smaller or
        larger than the published ones. Default 1.

    Attributes:
      recompute: whether to use gradient checkpointing of each block: only its input and
        output are saved, and the rest is recomputed in the backward pass. Less memory,
        more time, the same gradients. Initially False.
      feedback_widths: {level: width} of the maps accepted as `feedback`, levels 3 to 5.

    Raises:
      ValueError: if the name is unknown.
    """

    def __init__(
        self,
        model_name: str,
        survival_prob: float = 1.0,
        width: float = 1.0,
        depth: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if model_name not in SCALES:
            raise ValueError(f"backbone {model_name!r} is not one of {', '.join(SCALES)}")
        self.model_name = model_name
        self.survival_prob = survival_prob
        self.width = width
        self.depth = depth
        self.recompute = False
        lite = "lite" in model_name
        self.activation_name = "relu6" if lite else "swish"
        self.activation = keras.activations.get(self.activation_name)
        stem_width = width * (1.0 if lite else SCALES[model_name][0])
        self.stem_conv = _conv(round_filters(STEM_FILTERS, stem_width), 3, 2, name="stem_conv")
        self.stem_norm = batch_norm("stem_bn")
        self.blocks = self._make_blocks(squeeze_excite=not lite)
        firsts = [block for block in self.blocks if block.strides == 2]
        self.feedback_widths = {
            level: block.filters for level, block in enumerate(firsts, start=2) if level > 2
        }

    def _make_blocks(self, squeeze_excite: bool) -> list[MBConvBlock]:
        stages = scaled_stages(self.model_name, self.width, self.depth)
        total = sum(stage.repeats for stage in stages)
        blocks: list[MBConvBlock] = []
        for stage in stages:
            for repeat in range(stage.repeats):
                index = len(blocks)
                blocks.append(
                    MBConvBlock(
                        stage.filters,
                        stage.kernel_size,
                        stage.strides if repeat == 0 else 1,
                        stage.expand_ratio,
                        squeeze_excite,
                        self.activation_name,
                        1 - (1 - self.survival_prob) * index / total,
                        name=f"block_{index}",
                    )
                )
        return blocks

    def call(
        self,
        images: tf.Tensor,
        feedback: dict[int, tf.Tensor] | None = None,
        training: bool | None = None,
    ) -> dict[int, tf.Tensor]:
        """Compute the features.

        Args:
          images: float [B, H, W, 3], normalised.
          feedback: {level: float [B, H_l, W_l, width]}, added to the output of the first block
            of the level; see `feedback_widths`. Default None.

        Returns:
          Dict {level: float [B, H / 2 ** level, W / 2 ** level, c]}, sizes
          rounded up, for levels 1 to 5: the last map of each size.
        """
        x = self.activation(self.stem_norm(self.stem_conv(images), training=training))
        features, level = {}, 1
        for block in self.blocks:
            is_first = block.strides == 2
            if is_first:
                features[level] = x
                level += 1
            recompute = self.recompute and training
            x = recomputed(block, x) if recompute else block(x, training=training)
            if is_first and feedback and level in feedback:
                x += feedback[level]
        features[level] = x
        return features

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "model_name": self.model_name,
            "survival_prob": self.survival_prob,
            "width": self.width,
            "depth": self.depth,
        }


def _initializer() -> keras.initializers.Initializer:
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


def _conv(
    filters: int, kernel_size: int, strides: int = 1, *, use_bias: bool = False, name: str
) -> keras.layers.Conv2D:
    return keras.layers.Conv2D(
        filters,
        kernel_size,
        strides,
        "same",
        use_bias=use_bias,
        kernel_initializer=_initializer(),
        name=name,
    )

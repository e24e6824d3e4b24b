"""Class and box heads, shared over levels (paper, section 4.2)."""

import math
from typing import Any

import tensorflow as tf
import tf_keras as keras

from keras_layers.batch_norm import batch_norm
from keras_layers.conv_block import ConvBlock

_INITIALIZER = "variance_scaling"


@keras.utils.register_keras_serializable("efficientdet")
class PredictionHead(keras.layers.Layer):
    """Class or box head: convolutions, then one prediction for each anchor.

    The convolutions are shared over levels; every level has its own BatchNorms,
    because the statistics of levels differ.

    Examples:
      >>> head = PredictionHead(num_outputs=9 * 90, num_filters=64, num_repeats=3)
      >>> head({3: tf.ones([1, 8, 8, 64])})[3].shape
      TensorShape([1, 8, 8, 810])

    Args:
      num_outputs: channels of the prediction: anchors times values per anchor.
      num_filters: width of the inner convolutions. Default 64.
      num_repeats: number of inner convolutions. Default 3.
      conv_block: convolution block of all convolutions, see `ConvBlock.from_value`; the
        prediction has no norm and no activation. Default: the profile "light", in the
        order "conv_bn_act".
      prior_probability: initial sigmoid of the prediction, set through its bias
        (focal-loss paper, section 4.1); None for a bias of 0. Default None.
    """

    def __init__(
        self,
        num_outputs: int,
        num_filters: int = 64,
        num_repeats: int = 3,
        conv_block: Any = None,
        prior_probability: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_outputs = num_outputs
        self.num_filters = num_filters
        self.num_repeats = num_repeats
        if not isinstance(conv_block, ConvBlock):
            conv_block = ConvBlock.from_value({"order": "conv_bn_act", **(conv_block or {})})
        self.conv_block = conv_block
        self.activation = conv_block.make_activation()
        self.prior_probability = prior_probability
        self.convs = [
            conv_block.make_conv(num_filters, name=f"conv_{i}", initializer=_INITIALIZER)
            for i in range(num_repeats)
        ]
        prior = prior_probability
        bias = 0.0 if prior is None else -math.log((1 - prior) / prior)
        self.predict = conv_block.make_conv(
            num_outputs,
            name="predict",
            use_bias=True,
            initializer=_INITIALIZER,
            bias_initializer=keras.initializers.Constant(bias),
        )

    def build(self, input_shapes: dict[int, tf.TensorShape]) -> None:
        # One flat list, level by level: Keras' weights files omit layers in
        # nested containers.
        self.norms = [
            batch_norm(f"bn_{i}_level_{level}")
            for level in sorted(int(level) for level in input_shapes)
            for i in range(self.num_repeats)
            if self.conv_block.norm
        ]
        super().build(input_shapes)

    def call(
        self, features: dict[int, tf.Tensor], training: bool | None = None
    ) -> dict[int, tf.Tensor]:
        """Compute the predictions.

        Args:
          features: dict {level: float [B, H_l, W_l, C]}.

        Returns:
          Dict {level: float [B, H_l, W_l, num_outputs]}.
        """
        outputs, norms = {}, iter(self.norms)
        activates_first = self.conv_block.order == "act_conv_bn"
        for level in sorted(features, key=int):
            x = features[level]
            for conv in self.convs:
                x = conv(self.activation(x) if activates_first else x)
                if self.conv_block.norm:
                    x = next(norms)(x, training=training)
                x = x if activates_first else self.activation(x)
            outputs[int(level)] = self.predict(x)
        return outputs

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_outputs": self.num_outputs,
            "num_filters": self.num_filters,
            "num_repeats": self.num_repeats,
            "conv_block": self.conv_block.to_dict(),
            "prior_probability": self.prior_probability,
        }

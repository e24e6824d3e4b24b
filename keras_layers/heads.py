"""Class and box heads, shared over levels (paper, section 4.2)."""

import math

import tf_keras as keras

from keras_layers.normalization import batch_norm


@keras.utils.register_keras_serializable("efficientdet")
class PredictionHead(keras.layers.Layer):
    """Separable convolutions, then one prediction for each anchor.

    All levels share the convolutions; every level has BatchNorms of its own,
    because the statistics of levels differ.

    Example:
      >>> head = PredictionHead(num_outputs=9 * 90, num_filters=64, num_repeats=3)
      >>> head({3: tf.ones([1, 8, 8, 64])})[3].shape
      TensorShape([1, 8, 8, 810])

    Args:
      num_outputs: channels of the prediction: anchors times what each predicts.
      num_filters: width of the inner convolutions.
      num_repeats: number of inner convolutions.
      activation: name of a Keras activation.
      prior_probability: sigmoid of the prediction at the start, set through its
        bias (focal-loss paper, section 4.1); None starts the bias at 0.
    """

    def __init__(
        self,
        num_outputs: int,
        num_filters: int = 64,
        num_repeats: int = 3,
        activation: str = "swish",
        prior_probability: float | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_outputs = num_outputs
        self.num_filters = num_filters
        self.num_repeats = num_repeats
        self.activation_name = activation
        self.activation = keras.activations.get(activation)
        self.prior_probability = prior_probability
        self.convs = [_separable_conv(num_filters, name=f"conv_{i}") for i in range(num_repeats)]
        prior = prior_probability
        bias = 0.0 if prior is None else -math.log((1 - prior) / prior)
        self.predict = _separable_conv(
            num_outputs, name="predict", bias_initializer=keras.initializers.Constant(bias)
        )

    def build(self, input_shapes):
        # One flat list, level by level: Keras' weight files leave out layers in
        # nested containers.
        self.norms = [
            batch_norm(f"bn_{i}_level_{level}")
            for level in sorted(int(level) for level in input_shapes)
            for i in range(self.num_repeats)
        ]
        super().build(input_shapes)

    def call(self, features, training=None):
        """Predicts.

        Args:
          features: dict {level: float [B, H_l, W_l, C]}.

        Returns:
          Dict {level: float [B, H_l, W_l, num_outputs]}.
        """
        outputs, norms = {}, iter(self.norms)
        for level in sorted(features, key=int):
            x = features[level]
            for conv in self.convs:
                x = self.activation(next(norms)(conv(x), training=training))
            outputs[int(level)] = self.predict(x)
        return outputs

    def get_config(self):
        return {
            **super().get_config(),
            "num_outputs": self.num_outputs,
            "num_filters": self.num_filters,
            "num_repeats": self.num_repeats,
            "activation": self.activation_name,
            "prior_probability": self.prior_probability,
        }


def _separable_conv(filters: int, name: str, bias_initializer="zeros"):
    return keras.layers.SeparableConv2D(
        filters,
        3,
        padding="same",
        name=name,
        depthwise_initializer=keras.initializers.VarianceScaling(),
        pointwise_initializer=keras.initializers.VarianceScaling(),
        bias_initializer=bias_initializer,
    )

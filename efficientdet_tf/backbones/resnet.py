"""ResNet-50 and ResNet-101, from `tf_keras.applications`.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016,
https://arxiv.org/abs/1512.03385, with the stride in the first convolution of a block.
"""

import types
from typing import Any

import tensorflow as tf
import tf_keras as keras

from keras_layers.batch_norm import BatchNormalization
from keras_layers.gradient_checkpointing import recomputed

# name: (function of `tf_keras.applications`, {level: number of blocks of its stage})
NETWORKS = {
    "resnet50": ("ResNet50", {2: 3, 3: 4, 4: 6, 5: 3}),
    "resnet101": ("ResNet101", {2: 3, 3: 4, 4: 23, 5: 3}),
}


@keras.utils.register_keras_serializable("efficientdet")
class ResNet(keras.layers.Layer):
    """ResNet without its classifier.

    Examples:
      >>> ResNet("resnet50")(tf.zeros([1, 64, 64, 3]))[5].shape
      TensorShape([1, 2, 2, 2048])

    Args:
      model_name: a key of `NETWORKS`.

    Attributes:
      recompute: whether to use gradient checkpointing of each stage: only its input and
        output are saved, and the rest is recomputed in the backward pass. Less memory,
        more time, the same gradients. Initially False.
      feedback_widths: {level: width} of the maps accepted as `feedback`, levels 3 to 5.

    Raises:
      ValueError: if the name is unknown.
    """

    def __init__(self, model_name: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if model_name not in NETWORKS:
            raise ValueError(f"backbone {model_name!r} is not one of {', '.join(NETWORKS)}")
        self.model_name = model_name
        self.recompute = False
        self.feedback_widths = {3: 512, 4: 1024, 5: 2048}

    def build(self, input_shape: tf.TensorShape) -> None:
        application, num_blocks = NETWORKS[self.model_name]
        network = getattr(keras.applications, application)(
            include_top=False,
            weights=None,
            input_shape=(None, None, 3),
            # Variables of a model inside a layer are not named after the layer otherwise.
            layers=_layers(self.name),
        )
        self.stages, inputs = [], network.input
        for level, blocks in num_blocks.items():
            # The feedback is added before the last activation of the first block.
            first = [f"conv{level}_block1_add"] if level in self.feedback_widths else []
            for last in (*first, f"conv{level}_block{blocks}_out"):
                output = network.get_layer(last).output
                self.stages.append(keras.Model(inputs, output, name=f"to_{last}"))
                inputs = output
        super().build(input_shape)

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
            of the level, before its last activation; see `feedback_widths`. Default None.

        Returns:
          Dict {level: float [B, H / 2 ** level, W / 2 ** level, c]}, sizes rounded up, for
          levels 2 to 5.
        """
        x, features, stages = images, {}, iter(self.stages)
        for level in NETWORKS[self.model_name][1]:
            if level in self.feedback_widths:
                x = self._run(next(stages), x, training)
                x = x + feedback[level] if feedback and level in feedback else x
            x = features[level] = self._run(next(stages), x, training)
        return features

    def _run(self, stage: keras.Model, x: tf.Tensor, training: bool | None) -> tf.Tensor:
        recompute = self.recompute and training
        return recomputed(stage, x) if recompute else stage(x, training=training)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "model_name": self.model_name}


def _layers(scope: str) -> types.SimpleNamespace:
    """Return Keras' layers with variables named in the scope, and our BatchNorm."""
    replicas = tf.distribute.get_strategy().num_replicas_in_sync

    def conv(*args: Any, name: str, **kwargs: Any) -> keras.layers.Layer:
        return keras.layers.Conv2D(*args, name=f"{scope}/{name}", **kwargs)

    def norm(*args: Any, name: str, **kwargs: Any) -> keras.layers.Layer:
        return BatchNormalization(
            *args, name=f"{scope}/{name}", synchronized=replicas > 1, **kwargs
        )

    return types.SimpleNamespace(
        **{**vars(keras.layers), "Conv2D": conv, "BatchNormalization": norm}
    )

"""RFP: recursive feature pyramid.

Qiao, Chen, Yuille, "DetectoRS: Detecting Objects with Recursive Feature Pyramid and Switchable
Atrous Convolution", CVPR 2021, https://arxiv.org/abs/2006.02334.
"""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf
import tf_keras as keras

from keras_layers.averages import average
from keras_layers.batch_norm import statistics_kept
from keras_layers.feature_network import TOP_LEVEL
from keras_layers.feature_network_layer import NestedFeatureNetwork
from keras_layers.network_graph import POOL, Edge, NetworkGraph, Operation, graph_of
from keras_layers.options import check_bool, check_integer

# Dilation rates of two branches of `ASPP`.
DILATIONS = (3, 6)

# As parts of a network's graph.
_FEEDBACK = Operation("ASPP", "atrous spatial pyramid pooling, 1x1 convolution")
_BACKBONE = Operation("backbone", "the backbone's level, of the image and what is fed back")
_EXTRA_LEVEL = Operation("extra", "a level above the backbone's")
_GATE = Operation("gate", "g x' + (1 - g) x, g = sigmoid(1x1 convolution of x'), x' the newer map")


@keras.utils.register_keras_serializable("efficientdet")
class RFP(NestedFeatureNetwork):
    """Recursive feature pyramid: its output is fed back into the backbone, which runs again.

    With the backbone B and the base pyramid F, in step t = 2..T:

        x^1 = F(B(image));  r_l = Conv1x1(ASPP(x^t-1_l)), added within B
        x' = F(B(image, feedback r));  g_l = sigmoid(Conv1x1(x'_l))
        x^t_l = g_l x'_l + (1 - g_l) x^t-1_l

    F, ASPP and g are shared by all steps and levels. BatchNorm statistics are updated in the
    first pass only. Called with features alone, the layer is its base: only `from_images` can
    run the backbone again, and a config does not hold the backbone. A whole model is thus not
    rebuilt from its Keras config or .keras file, but by `efficientdet_tf.model.build`, and its
    weights are loaded. Switchable atrous convolution belongs to the backbone and is not
    included.

    Args:
      num_filters: width C of every level of the output, a multiple of 4. Default 64.
      num_repeats: number of cells of the base. Default 1.
      fusion: fusion method of the base, one of `METHODS` of
        `keras_layers.feature_network`. Default "sum".
      conv_block: convolution block of the base, see `ConvBlock.from_value`. Default: the
        profile "light".
      base: name of the feature network of the base pyramid. Default "fpn".
      base_options: options of the base. Default none.
      steps: number T of passes. Default 2.
      share_backbone: whether later passes use the first backbone instead of a second one.
        Default False, as published.

    Raises:
      ValueError: if a value is invalid; the message begins with the field's name.
    """

    needs_backbone = True

    def __init__(
        self,
        *,
        num_filters: int = 64,
        num_repeats: int = 1,
        fusion: str = "sum",
        conv_block: Any = None,
        base: str = "fpn",
        base_options: Mapping[str, Any] | None = None,
        steps: int = 2,
        share_backbone: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_filters=num_filters,
            num_repeats=num_repeats,
            fusion=fusion,
            conv_block=conv_block,
            base=base,
            base_options=base_options,
            **kwargs,
        )
        if num_filters % 4:
            raise ValueError(f"num_filters: {num_filters} is no multiple of 4")
        check_integer("steps", steps)
        self.steps = steps
        check_bool("share_backbone", share_backbone)
        self.share_backbone = share_backbone
        self.aspp = ASPP(num_filters, name="aspp")
        self.gate = keras.layers.Conv2D(1, 1, kernel_initializer="zeros", name="gate")
        self.feedback_convs: list[keras.layers.Layer] = []
        # Set by `from_images`.
        self.run_again: Callable[..., dict[int, tf.Tensor]] | None = None

    def from_images(
        self,
        images: tf.Tensor,
        backbone: keras.layers.Layer,
        extra_levels: keras.layers.Layer,
    ) -> dict[int, tf.Tensor]:
        """Compute the pyramid of images; see `FeatureNetwork.from_images`."""
        widths = getattr(backbone, "feedback_widths", None)
        if not widths:
            name = getattr(backbone, "model_name", type(backbone).__name__)
            raise ValueError(
                f"name: rfp feeds its output back into the backbone, and {name} has no input for "
                "it; choose another backbone or feature network"
            )
        features = extra_levels(backbone(images))
        if self.steps == 1:
            return self(features)
        self.feedback_levels = [level for level in widths if level in features]
        self.feedback_convs = [
            keras.layers.Conv2D(
                widths[level], 1, kernel_initializer="zeros", name=f"feedback_{level}"
            )
            for level in self.feedback_levels
        ]
        if not self.share_backbone:
            config = {**backbone.get_config(), "name": "backbone"}
            self.backbone_copies = [type(backbone).from_config(config)]

        def run_again(
            images: tf.Tensor,
            feedback: dict[int, tf.Tensor],
            is_second: bool,
            training: bool | None,
        ) -> dict[int, tf.Tensor]:
            again = self.backbone_copies[0] if self.backbone_copies else backbone
            again.recompute = backbone.recompute
            # The second pass is the first one of a second backbone, which updates its statistics.
            is_first = is_second and not self.share_backbone
            with contextlib.nullcontext() if is_first else statistics_kept():
                found = again(images, feedback=feedback, training=training)
            with statistics_kept():
                return extra_levels(found, training=training)

        # A function: Keras would track a layer as a part of this one.
        self.run_again = run_again
        return self(features, images=images)

    def extend_graph(self, graph: NetworkGraph) -> None:
        self.pyramid.extend_graph(graph)
        if not self.feedback_convs:
            return
        graph.begin_stage("recursion", self.steps - 1)
        before = dict(graph.newest)
        convs = dict(zip(self.feedback_levels, self.feedback_convs))
        feedback = {
            level: Edge(
                graph.add(level, [_FEEDBACK], [Edge(before[level])], [self.aspp, conv]),
                "added in the first block of the backbone's level",
            )
            for level, conv in convs.items()
        }
        for level in self.levels:
            edges = [feedback[level]] if level in feedback else []
            if level > self.levels[0]:
                is_extra = level > TOP_LEVEL
                down = POOL if is_extra else "downsampled by the backbone"
                edges.append(Edge(graph.newest[level - 1], down))
            if level > TOP_LEVEL:
                graph.add(level, [_EXTRA_LEVEL], edges)
            else:
                graph.add(level, [_BACKBONE], edges, self.backbone_copies)
        graph.inline(graph_of(self.pyramid))
        for level, source in before.items():
            graph.add(level, [_GATE], [Edge(graph.newest[level]), Edge(source)], [self.gate])

    def call(
        self,
        features: dict[int, tf.Tensor],
        images: tf.Tensor | None = None,
        training: bool | None = None,
    ) -> dict[int, tf.Tensor]:
        """Fuse, see `FusionGraph.call`; with images, as in `from_images`.

        Raises:
          ValueError: if images are given and `from_images` has not been called.
        """
        outputs = self.pyramid(features, training=training)
        if images is None:
            return outputs
        if self.run_again is None:
            raise ValueError(
                "name: rfp runs the backbone again, which a Keras config does not hold; build the "
                "model by efficientdet_tf.model.build and load its weights"
            )
        for step in range(2, self.steps + 1):
            feedback = {
                level: conv(self.aspp(outputs[level]))
                for level, conv in zip(self.feedback_levels, self.feedback_convs)
            }
            features = self.run_again(images, feedback, step == 2, training)
            with statistics_kept():
                again = self.pyramid(features, training=training)
            for level, x in again.items():
                gate = tf.sigmoid(self.gate(x))
                outputs[level] = gate * x + (1 - gate) * outputs[level]
        return outputs

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "steps": self.steps,
            "share_backbone": self.share_backbone,
        }


@keras.utils.register_keras_serializable("efficientdet")
class ASPP(keras.layers.Layer):
    """Atrous spatial pyramid pooling: four branches of C/4 filters, concatenated.

    The branches are a 1x1 convolution, 3x3 convolutions of dilation 3 and 6, and a 1x1
    convolution of the global average, each followed by ReLU.

    Args:
      num_filters: width C, a multiple of 4.
    """

    def __init__(self, num_filters: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_filters = num_filters
        common = {"filters": num_filters // 4, "padding": "same", "activation": "relu"}
        self.pointwise = keras.layers.Conv2D(kernel_size=1, name="pointwise", **common)
        self.dilated = [
            keras.layers.Conv2D(kernel_size=3, dilation_rate=d, name=f"dilated_{d}", **common)
            for d in DILATIONS
        ]
        self.average = keras.layers.Conv2D(kernel_size=1, name="average", **common)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Map float [B, H, W, C] to the same shape."""
        pooled = self.average(average(x))
        near = self.pointwise(x)
        branches = [near, *(conv(x) for conv in self.dilated), pooled + tf.zeros_like(near)]
        return tf.concat(branches, axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_filters": self.num_filters}

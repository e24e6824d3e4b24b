"""Base classes of feature networks."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tf_keras as keras

from keras_layers.conv_block import ConvBlock
from keras_layers.feature_network import METHODS, build_feature_network, check_levels
from keras_layers.network_graph import NetworkGraph
from keras_layers.options import check_choice, check_integer


class FeatureNetwork(keras.layers.Layer):
    """Base class of feature networks: common hyper-parameters and checks of the contract.

    Args:
      num_filters: width C of every level of the output, 1 or more.
      num_repeats: number of cells, each with weights of its own, 1 or more.
      fusion: fusion method, one of `keras_layers.feature_network.METHODS`.
      conv_block: convolution block, see `ConvBlock.from_value`; None is the profile "light".

    Attributes:
      reads_extra_levels: whether the values, not only the sizes, of the levels above the
        backbone's are used.
      conv_after_downsample: whether maps are pooled before they are projected, also for the
        levels above the backbone's.
      needs_backbone: whether the network must be called by `from_images` in a model.
      backbone_copies: the network's own backbones, initialised with the same pretrained
        weights as the model's.

    Raises:
      ValueError: if a value is invalid; the message begins with the field's name.
    """

    reads_extra_levels = True
    conv_after_downsample = False
    needs_backbone = False

    def __init__(
        self, *, num_filters: int, num_repeats: int, fusion: str, conv_block: Any, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        for field, value in (("num_filters", num_filters), ("num_repeats", num_repeats)):
            check_integer(field, value)
        check_choice("fusion", fusion, METHODS)
        self.num_filters = num_filters
        self.num_repeats = num_repeats
        self.fusion = fusion
        self.conv_block = ConvBlock.from_value(conv_block)
        # No class attribute: Keras does not track layers under the name of one.
        self.backbone_copies: list[keras.layers.Layer] = []

    def from_images(
        self,
        images: tf.Tensor,
        backbone: keras.layers.Layer,
        extra_levels: keras.layers.Layer,
    ) -> dict[int, tf.Tensor]:
        """Compute the pyramid of images.

        Args:
          images: float [B, H, W, 3], normalised.
          backbone: layer from images to {level: float [B, H_l, W_l, c_l]}. Its
            `feedback_widths`, if it has them, are {level: width} of the maps accepted as its
            argument `feedback`.
          extra_levels: layer that adds the levels above the backbone's.

        Returns:
          Dict {level: float [B, H_l, W_l, C]}.

        Raises:
          ValueError: if the network cannot use the backbone; the message begins with the
            field's name.
        """
        return self(extra_levels(backbone(images)))

    def projection_block(self) -> ConvBlock:
        """Return the block that determines norm and bias of the input projections."""
        return self.conv_block

    def extend_graph(self, graph: NetworkGraph) -> None:
        """Append the stages of the network, which has been called, to a graph.

        Args:
          graph: graph whose newest maps are the inputs; afterwards they are the outputs.
        """
        raise NotImplementedError

    def __call__(self, features: Mapping[Any, tf.Tensor], *args: Any, **kwargs: Any) -> Any:
        """Call the layer with {level: map}, see `call`; levels may be text, as JSON makes them."""
        return super().__call__({int(level): x for level, x in features.items()}, *args, **kwargs)

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Build the layer from a model file, where levels are text."""
        shapes = {int(level): tuple(shape) for level, shape in config["input_shape"].items()}
        self.build(shapes)

    def build(self, input_shapes: dict[int, tf.TensorShape]) -> None:
        self.levels = check_levels(input_shapes)
        super().build(input_shapes)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_filters": self.num_filters,
            "num_repeats": self.num_repeats,
            "fusion": self.fusion,
            "conv_block": self.conv_block.to_dict(),
        }


class NestedFeatureNetwork(FeatureNetwork):
    """Base class of feature networks on top of the pyramid of another one, the base.

    Args:
      num_filters: width C of every level of the output, 1 or more.
      num_repeats: number of cells of the base.
      fusion: fusion method of the base.
      conv_block: convolution block of both, see `ConvBlock.from_value`.
      base: name of the base, a key of `keras_layers.feature_network.NETWORKS`.
      base_options: options of the base, see `build_feature_network`; None for none.

    Attributes:
      pyramid: layer of the base.

    Raises:
      ValueError: if a value is invalid; the message begins with the field's name.
    """

    def __init__(self, *, base: str, base_options: Mapping[str, Any] | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(base_options or {}, Mapping):
            raise ValueError(f"base_options: {base_options!r} is not names and values")
        self.base = base
        self.base_options = dict(base_options or {})
        try:
            self.pyramid = build_feature_network(
                base,
                {"conv_block": self.conv_block, **self.base_options},
                num_filters=self.num_filters,
                num_repeats=self.num_repeats,
                fusion=self.fusion,
                layer_name="base",
            )
        except ValueError as error:
            # The fields of the base have other names here; the other fields are checked above.
            text = str(error).removeprefix("name: ")
            is_option = text.startswith("options.")
            raise ValueError(f"base_{text}" if is_option else f"base: {text}") from error
        if self.pyramid.needs_backbone:
            raise ValueError(f"base: {base} needs the backbone, which a base does not get")
        self.conv_after_downsample = self.pyramid.conv_after_downsample

    @property
    def reads_extra_levels(self) -> bool:  # type: ignore[override]
        return self.pyramid.reads_extra_levels

    def projection_block(self) -> ConvBlock:
        return self.pyramid.projection_block()

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "base": self.base,
            "base_options": dict(self.base_options),
        }

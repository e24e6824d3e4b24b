"""What the layers of all feature networks have in common."""

from typing import Any

import tf_keras as keras

from keras_layers.conv_block import ConvBlock
from keras_layers.feature_network import METHODS, check_choice, check_levels


class FeatureNetwork(keras.layers.Layer):
    """Common hyper-parameters of a feature network, and the checks of its contract.

    Args:
      num_filters: width C of every level of the output, 1 or more.
      num_repeats: number of cells, each with weights of its own, 1 or more.
      fusion: one of `keras_layers.feature_network.METHODS`.
      conv_block: as of `ConvBlock.from_value`; None is the profile "light".

    Attributes:
      reads_extra_levels: whether more than the sizes of the levels above the backbone's
        is used.
      conv_after_downsample: whether maps are pooled before they are projected, also for the
        levels above the backbone's.

    Raises:
      ValueError: naming the field, for a value that it cannot have.
    """

    reads_extra_levels = True
    conv_after_downsample = False

    def __init__(
        self, *, num_filters: int, num_repeats: int, fusion: str, conv_block: Any, **kwargs
    ):
        super().__init__(**kwargs)
        for field, value in (("num_filters", num_filters), ("num_repeats", num_repeats)):
            if value < 1:
                raise ValueError(f"{field}: {value} is below 1")
        check_choice("fusion", fusion, METHODS)
        self.num_filters = num_filters
        self.num_repeats = num_repeats
        self.fusion = fusion
        self.conv_block = ConvBlock.from_value(conv_block)

    def projection_block(self) -> ConvBlock:
        """Return the block whose norm and bias the projections of the inputs have."""
        return self.conv_block

    def build(self, input_shapes):
        self.levels = check_levels(input_shapes)
        super().build(input_shapes)

    def get_config(self):
        return {
            **super().get_config(),
            "num_filters": self.num_filters,
            "num_repeats": self.num_repeats,
            "fusion": self.fusion,
            "conv_block": self.conv_block.to_dict(),
        }

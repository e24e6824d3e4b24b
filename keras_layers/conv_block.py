"""Convolution block: convolution, BatchNorm and activation, shared by a detector's parts."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tf_keras as keras

from keras_layers.batch_norm import batch_norm
from keras_layers.network_graph import Operation
from keras_layers.options import check_bool, check_choice

ORDERS = ("act_conv_bn", "conv_bn_act")
BIASES = ("always", "without_norm")


@dataclasses.dataclass(frozen=True)
class ConvBlock:
    """Specification of a network's convolution blocks, without filters and strides.

    Examples:
      >>> block = ConvBlock(activation="relu6")
      >>> block.build(64, name="block")(tf.ones([1, 8, 8, 32])).shape
      TensorShape([1, 8, 8, 64])

    Args:
      separable: whether kernels larger than 1x1 are depthwise, then pointwise. Default True.
      kernel_size: side of the kernel in pixels, 1 or more. Default 3.
      norm: whether BatchNorm follows the convolution. Default True.
      activation: name of a Keras activation; None for no activation. Default "swish".
      order: order of the operations, one of `ORDERS`. Default "act_conv_bn".
      bias: one of `BIASES`: whether a convolution followed by BatchNorm has a bias.
        Default "always".

    Raises:
      ValueError: if a value is invalid; the message begins with the field's name.
    """

    separable: bool = True
    kernel_size: int = 3
    norm: bool = True
    activation: str | None = "swish"
    order: str = "act_conv_bn"
    bias: str = "always"

    def __post_init__(self):
        check_choice("conv_block.order", self.order, ORDERS)
        check_choice("conv_block.bias", self.bias, BIASES)
        check_bool("conv_block.separable", self.separable)
        check_bool("conv_block.norm", self.norm)
        is_integer = isinstance(self.kernel_size, int) and not isinstance(self.kernel_size, bool)
        if not is_integer or self.kernel_size < 1:
            raise ValueError(f"conv_block.kernel_size: {self.kernel_size!r} is not 1 or more")
        try:
            keras.activations.get(self.activation)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"conv_block.activation: {self.activation!r} is not a Keras activation"
            ) from error

    @classmethod
    def from_value(cls, value: Any = None, **defaults: Any) -> "ConvBlock":
        """Build a block from a value of a config or `get_config`.

        Args:
          value: a `ConvBlock`; the name of one of `PROFILES`; a mapping of fields; or
            None for the profile "light". Default None.
          **defaults: values of fields for a profile, or for fields missing in a mapping.

        Raises:
          ValueError: if a value is invalid; the message begins with the field's name.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, Mapping):
            fields = [field.name for field in dataclasses.fields(cls)]
            for key in value:
                if key not in fields:
                    raise ValueError(
                        f"conv_block.{key}: is not a field; known: {', '.join(fields)}"
                    )
            return cls(**{**defaults, **value})
        if value is not None and not (isinstance(value, str) and value in PROFILES):
            raise ValueError(
                f"conv_block: {value!r} is not one of {', '.join(PROFILES)}, "
                "and not a mapping of fields"
            )
        return dataclasses.replace(PROFILES[value or "light"], **defaults)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, which `from_value` reads back."""
        return dataclasses.asdict(self)

    @property
    def use_bias(self) -> bool:
        """Whether the convolution has a bias."""
        return self.bias == "always" or not self.norm

    def make_conv(
        self,
        filters: int,
        *,
        strides: int = 1,
        name: str,
        use_bias: bool | None = None,
        initializer: str = "glorot_uniform",
        bias_initializer: Any = "zeros",
    ) -> keras.layers.Layer:
        """Build the convolution alone, with SAME padding.

        Args:
          filters: width of the output.
          strides: stride in pixels, for both axes. Default 1.
          name: name of the layer.
          use_bias: whether the convolution has a bias. Default: see `bias`.
          initializer: Keras initializer of all kernels. Default "glorot_uniform".
          bias_initializer: Keras initializer of the bias. Default "zeros".
        """
        common = dict(
            filters=filters,
            kernel_size=self.kernel_size,
            strides=strides,
            padding="same",
            use_bias=self.use_bias if use_bias is None else use_bias,
            bias_initializer=bias_initializer,
            name=name,
        )
        if self.separable and self.kernel_size > 1:
            return keras.layers.SeparableConv2D(
                depthwise_initializer=initializer, pointwise_initializer=initializer, **common
            )
        return keras.layers.Conv2D(kernel_initializer=initializer, **common)

    def make_activation(self) -> keras.layers.Layer:
        """Return the activation, a function of a tensor."""
        return keras.activations.get(self.activation)

    def describe(self, strides: int = 1) -> str:
        """Return the operations of the block with a stride, in their order and in one line."""
        conv = f"{self.kernel_size}x{self.kernel_size} convolution"
        if self.separable and self.kernel_size > 1:
            conv = f"separable {conv}"
        if strides > 1:
            conv += f" with stride {strides}"
        activation = [] if self.activation is None else [f"{self.activation}"]
        steps = [conv, *(["BatchNorm"] if self.norm else [])]
        is_first = self.order == "act_conv_bn"
        return ", ".join([*activation, *steps] if is_first else [*steps, *activation])

    def operation(self) -> Operation:
        """Return the block as an operation of a network's graph."""
        return Operation(f"conv {self.kernel_size}x{self.kernel_size}", self.describe())

    def build(self, filters: int, *, strides: int = 1, name: str) -> "ConvBlockLayer":
        """Build the whole block as a layer.

        Args:
          filters: width of the output.
          strides: stride of the convolution, in pixels. Default 1.
          name: name of the layer.
        """
        return ConvBlockLayer(filters, strides, self, name=name)


# `light` is EfficientDet's, `dense` is used in the papers of most other networks.
PROFILES = {"light": ConvBlock(), "dense": ConvBlock(separable=False, bias="without_norm")}


@keras.utils.register_keras_serializable("efficientdet")
class ConvBlockLayer(keras.layers.Layer):
    """Convolution, BatchNorm and activation, in the block's order.

    Args:
      filters: width of the output.
      strides: stride of the convolution, in pixels. Default 1.
      conv_block: convolution block, see `ConvBlock.from_value`. Default: the profile "light".
    """

    def __init__(
        self, filters: int, strides: int = 1, conv_block: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.strides = strides
        self.conv_block = ConvBlock.from_value(conv_block)
        self.activation = self.conv_block.make_activation()
        self.conv = self.conv_block.make_conv(filters, strides=strides, name="conv")
        self.norm = batch_norm("bn") if self.conv_block.norm else None

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Map float [B, H, W, any] to float [B, ceil(H / strides), ceil(W / strides), filters]."""
        if self.conv_block.order == "act_conv_bn":
            x = self.activation(x)
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x, training=training)
        return self.activation(x) if self.conv_block.order == "conv_bn_act" else x

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "filters": self.filters,
            "strides": self.strides,
            "conv_block": self.conv_block.to_dict(),
        }

"""int8 conversion that can keep layers in float: those that int8 changes most."""

import contextlib
import csv
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

# Images on which the error of each layer is measured.
_NUM_IMAGES = 8


class SelectiveQuantization:
    """Conversion to int8 with a chosen number of layers in float32.

    Args:
      converter: `tf.lite.TFLiteConverter` with its representative data set.
      images: arrays float32 [1, H, W, 3], some of the representative images.

    Attributes:
      layers: names of the quantised layers' outputs, those with the largest error first: the
        root mean square of the difference from float, in steps of the output's scale. Rounding
        alone gives 0.29.
    """

    def __init__(self, converter: Any, images: Sequence[np.ndarray]) -> None:
        with without_deprecation():
            self._debugger = tf.lite.experimental.QuantizationDebugger(
                converter=converter, debug_dataset=_data_set(images[:_NUM_IMAGES])
            )
            self._debugger.run()
        table = io.StringIO()
        self._debugger.layer_statistics_dump(table)
        rows = list(csv.DictReader(table.getvalue().splitlines()))
        rows.sort(key=lambda row: -float(row["mean_squared_error"]) / float(row["scale"]) ** 2)
        self.layers = [row["tensor_name"] for row in rows]

    def convert(self, num_float_layers: int) -> bytes:
        """Convert with the first of `layers` in float32; not all of them."""
        with without_deprecation():
            self._debugger.options = tf.lite.experimental.QuantizationDebugOptions(
                denylisted_nodes=self.layers[:num_float_layers]
            )
            return bytes(self._debugger.get_nondebug_quantized_model())


@contextlib.contextmanager
def without_deprecation() -> Iterator[None]:
    """Silence the warning about the interpreter that the converter itself uses."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"\s*Warning: tf\.lite\.Interpreter is deprecated")
        yield


def _data_set(images: Sequence[np.ndarray]) -> Callable:
    return lambda: ([image] for image in images)

"""Compatibility wrapper around the import of tensorflow-addons.

tensorflow-addons 0.23, the last release, is made for TensorFlow 2.13 to 2.15, whose
`tf.keras` is now `tf_keras`. With TensorFlow 2.20 its import fails for two reasons:

- It imports the class `KerasTensor`, for type annotations, from the module
  `keras.src.engine.keras_tensor`, which exists in tf_keras, but not in Keras 3.
- Its optimizers are subclasses of `tf.keras.optimizers.legacy.Optimizer`, and
  its classes register themselves with `tf.keras`; those of Keras 3 differ.

So both names are redirected to tf_keras during the import only: other code never sees
a changed `tf.keras`, and no environment variable is needed. Everything in pure Python
works; the two compiled operations, resampler and correlation, do not.
"""

import contextlib
import importlib
import sys
import types
import warnings
from collections.abc import Iterator

import tensorflow as tf
import tf_keras as keras
from tf_keras.src import engine
from tf_keras.src.engine import keras_tensor

from efficientdet_tf.config import ConfigError

_NAMES = {
    "keras.src.engine": engine,
    "keras.src.engine.keras_tensor": keras_tensor,
    # Looked up in `sys.modules` by `importlib.util.find_spec`.
    "tensorflow.keras": keras,
    "tensorflow.keras.optimizers": keras.optimizers,
    "tensorflow.keras.optimizers.legacy": keras.optimizers.legacy,
}


def load_tensorflow_addons(setting: str) -> types.ModuleType:
    """Import tensorflow-addons.

    Args:
      setting: setting that needs it, e.g. "optimizer.name: sgdw", for the message.

    Raises:
      ConfigError: when tensorflow-addons is not installed.
    """
    if sys.modules.get("tensorflow_addons") is not None:
        return sys.modules["tensorflow_addons"]
    try:
        with _redirect_to_tf_keras(), warnings.catch_warnings():
            # Warnings that its development has ended and that this is not TensorFlow 2.15.
            warnings.simplefilter("ignore")
            return importlib.import_module("tensorflow_addons")
    except ModuleNotFoundError as error:
        if error.name != "tensorflow_addons":
            raise
        raise ConfigError(
            f"{setting} needs tensorflow-addons, which is not installed: "
            "pip install 'tensorflow-addons==0.23.*', which exists for Python 3.11 and older; "
            f"this is Python {sys.version_info.major}.{sys.version_info.minor}"
        ) from error


@contextlib.contextmanager
def _redirect_to_tf_keras() -> Iterator[None]:
    """Return a context in which `_NAMES` and `tf.keras` are those of tf_keras."""
    modules = {name: sys.modules.get(name) for name in _NAMES}
    # A lazy loader, which may not have loaded Keras 3 yet.
    loader = vars(tf)["keras"]
    sys.modules.update(_NAMES)
    vars(tf)["keras"] = keras
    try:
        yield
    finally:
        vars(tf)["keras"] = loader
        for name, module in modules.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module

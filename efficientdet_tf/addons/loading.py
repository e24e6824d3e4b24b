"""The import of tensorflow-addons, which some settings need and nothing else.

tensorflow-addons 0.23 is its last release, made for TensorFlow 2.13 to 2.15, in
which `tf.keras` was what is called `tf_keras` today. With TensorFlow 2.20 its
import stops at two places:

- It takes the class `KerasTensor`, for type annotations, from the module
  `keras.src.engine.keras_tensor`. There is none in Keras 3, which today has the
  name `keras`; that of tf_keras is what is meant.
- Its optimizers are subclasses of `tf.keras.optimizers.legacy.Optimizer`, and
  its classes register themselves with `tf.keras`. Keras 3 has other ones.

So both names lead to tf_keras while it is imported, and back to where they led
as soon as it is: nobody else sees a changed `tf.keras`, no environment variable
is needed, and what runs in Python alone works. The two compiled operations,
resampler and correlation, do not.
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
      setting: what asks for it, such as "optimizer.name: sgdw", for the message.

    Raises:
      ConfigError: where tensorflow-addons is not installed.
    """
    if sys.modules.get("tensorflow_addons") is not None:
        return sys.modules["tensorflow_addons"]
    try:
        with _keras_as_it_was(), warnings.catch_warnings():
            # That its development has ended, and that this is not TensorFlow 2.15.
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
def _keras_as_it_was() -> Iterator[None]:
    """A context in which `_NAMES` and `tf.keras` are of tf_keras."""
    modules = {name: sys.modules.get(name) for name in _NAMES}
    # A loader, which has not loaded Keras 3 where nobody asked for it.
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

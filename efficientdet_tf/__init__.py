"""EfficientDet object detection in TensorFlow and Keras.

The library API: `Config`, `load_data`, `training_dataset`,
`EfficientDet`, `DetectionLoss`, and `Detector`. Each is imported on first use, so
that `--help` does not wait for TensorFlow.
"""

import importlib
from typing import Any

# The only definition: setup.py reads this line.
__version__ = "0.2.0.dev0"

_MODULES = {
    "Config": "config",
    "DetectionLoss": "losses",
    "Detector": "detector",
    "EfficientDet": "training.detection_model",
    "load_data": "data",
    "training_dataset": "data.pipeline",
}
# Names that differ in their module.
_NAMES_IN_MODULE = {"load_data": "load"}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    return getattr(module, _NAMES_IN_MODULE.get(name, name))


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

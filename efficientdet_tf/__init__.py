"""EfficientDet object detection in TensorFlow and Keras.

What a notebook needs is here: `Config`, `load_data`, `training_dataset`,
`EfficientDet`, `DetectionLoss`, and `Detector`. Each is imported when it is first
used, so that commands answer `--help` without waiting for TensorFlow.
"""

import importlib
from typing import Any

# The one place of it: setup.py reads this line.
__version__ = "0.2.0.dev0"

_HOMES = {
    "Config": "config",
    "DetectionLoss": "losses",
    "Detector": "detector",
    "EfficientDet": "training.detection_model",
    "load_data": "data",
    "training_dataset": "data.pipeline",
}
# Where the name at home says less than is needed here.
_NAMES_AT_HOME = {"load_data": "load"}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(f"{__name__}.{_HOMES[name]}")
    return getattr(home, _NAMES_AT_HOME.get(name, name))


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

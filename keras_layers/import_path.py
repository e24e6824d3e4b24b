"""Objects by import path, "module:name", e.g. a class of the user's own.

This module imports no TensorFlow, so that a command can check settings before that import.
"""

import importlib
import re
from typing import Any

_FORM = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def is_import_path(name: str) -> bool:
    """Tell whether a name has the form "module:name"; nothing is imported."""
    return _FORM.fullmatch(name) is not None


def load_object(path: str) -> Any:
    """Import the object at "module:name".

    Raises:
      ValueError: if there is no such module, or it has no such name.
    """
    module, name = path.split(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        # Of what the module itself imports, the traceback is needed.
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ValueError(
            f"{path}: there is no module {error.name}; its folder must be on PYTHONPATH"
        ) from error
    except AttributeError as error:
        if getattr(error, "name", None) != name:
            raise
        raise ValueError(f"{path}: the module has no {name}") from error

"""Reader of PyTorch weights files, without PyTorch.

Supported are files in the sequential format of PyTorch before 1.6 that hold a
dict of dense tensors. All other content of a pickle, such as code to execute, is
refused.
"""

import collections
import pathlib
import pickle
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from efficientdet_tf.errors import UserError

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_STORAGES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "LongStorage": np.dtype("<i8"),
}


class TorchFileError(UserError):
    """A file that is not a dict of tensors, or is damaged."""


class _Tensor(NamedTuple):
    """View of a tensor into a storage; offset and strides in elements."""

    key: str
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_tensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Read all tensors of a file, by name.

    Raises:
      TorchFileError: if the file cannot be read; it names the file.
    """
    try:
        with open(path, "rb") as file:
            tensors = _read_structure(file)
            storages = _read_storages(file, {t.key: t.dtype for t in tensors.values()})
        return {name: _values(tensor, storages[tensor.key]) for name, tensor in tensors.items()}
    except OSError as error:
        raise TorchFileError(f"{path}: {error.strerror}") from error
    # A damaged pickle can raise nearly any exception.
    except Exception as error:
        raise TorchFileError(f"{path}: not a file of PyTorch weights, or truncated") from error


def _read_structure(file: BinaryIO) -> dict[str, _Tensor]:
    magic, protocol, system, tensors = (_Unpickler(file).load() for _ in range(4))
    if (magic, protocol) != (_MAGIC, _PROTOCOL) or not system["little_endian"]:
        raise ValueError("not PyTorch's sequential format")
    if not all(isinstance(tensor, _Tensor) for tensor in dict(tensors).values()):
        raise ValueError("holds more than tensors")
    return tensors


def _read_storages(file: BinaryIO, dtypes: dict[str, np.dtype]) -> dict[str, np.ndarray]:
    storages = {}
    for key in _Unpickler(file).load():
        count = int(np.frombuffer(file.read(8), "<i8")[0])
        data = file.read(count * dtypes[key].itemsize)
        storages[key] = np.frombuffer(data, dtypes[key], count)
    return storages


def _values(tensor: _Tensor, storage: np.ndarray) -> np.ndarray:
    if min((tensor.offset, *tensor.shape, *tensor.strides)) < 0:
        raise ValueError("a tensor begins before its storage")
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.strides))
    if tensor.offset + last >= len(storage):
        raise ValueError("a tensor reaches beyond its storage")
    strides = [step * storage.itemsize for step in tensor.strides]
    return np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, strides).copy()


def _rebuild(
    storage: tuple[str, np.dtype],
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    *_: Any,
) -> _Tensor:
    key, dtype = storage
    return _Tensor(key, dtype, offset, shape, strides)


class _Unpickler(pickle.Unpickler):
    """Unpickler of a state dict into `_Tensor`s."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise pickle.UnpicklingError(f"{module}.{name} is not a part of weights")

    def persistent_load(self, saved_id: tuple) -> Any:
        _, dtype, key, *_ = saved_id
        return key, dtype

"""Reader of the published implementation's weights files."""

import pathlib
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence

import h5py
import numpy as np
import tensorflow as tf

from efficientdet_tf.checkpoints import object_paths
from efficientdet_tf.checkpoints.reference import reference_name
from efficientdet_tf.config import Config, NeckConfig
from efficientdet_tf.errors import UserError

_AVERAGE = "/ExponentialMovingAverage"


class CheckpointError(UserError):
    """A weights file that is missing, damaged, or of another kind."""


def read(path: str | pathlib.Path, config: Config) -> dict[str, np.ndarray]:
    """Read the network's variables from a published weights file.

    The moving average of a variable is preferred if the checkpoint has one:
    published results use the averages.

    Args:
      path: a TensorFlow checkpoint, name-based (TF1) or object-based (TF2), given
        as a folder or as the prefix of its files; an `.h5` file of Keras'
        `save_weights`; or an `.npz` file.
      config: config of the target model, which determines the names of the
        variables of an object-based checkpoint.

    Returns:
      {published name without `:0`: array}. Variables of no published model keep
      their own name, and are refused when loaded into a model.
    """
    path = pathlib.Path(path)
    if path.suffix in (".h5", ".hdf5"):
        weights = _read_file(path, _from_h5)
    elif path.suffix == ".npz":
        weights = _read_file(path, _from_npz)
    else:
        weights = _read_checkpoint(path, config)
    return {_as_in_a_first_model(name): array for name, array in weights.items()}


def _as_in_a_first_model(name: str) -> str:
    """Remove the process-wide number of the stem's layers, which published names lack."""
    name = name.removesuffix(":0")
    return re.sub(r"/stem/(conv2d|tpu_batch_normalization)_\d+/", r"/stem/\1/", name)


def _read_file(path: pathlib.Path, parse: Callable) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        return parse(path)
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{path}: not a whole {path.suffix} file of weights; download it again"
        ) from error


def _from_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def _from_h5(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Read an `.h5` file, whose datasets are named `<layer>/<full variable name>`."""
    weights = {}

    def collect(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            weights[name.partition("/")[2]] = item[()]

    with h5py.File(path, "r") as file:
        if "layer_names" not in file.attrs:
            raise CheckpointError(
                f"{path}: not written by save_weights of the published model; "
                "other .h5 files cannot be read as such"
            )
        file.visititems(collect)
    return weights


def _read_checkpoint(path: pathlib.Path, config: Config) -> dict[str, np.ndarray]:
    prefix = _prefix(path)
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        keys = _keys_by_name(reader.get_variable_to_shape_map(), config)
        return {name: reader.get_tensor(key) for name, key in keys.items()}
    # The exception for a damaged file depends on the damaged byte.
    except (tf.errors.OpError, LookupError, ValueError, RuntimeError, MemoryError) as error:
        raise CheckpointError(
            f"{prefix}: cannot be read as a TensorFlow checkpoint; "
            "its .index or .data file is damaged or missing; download them again"
        ) from error


def _prefix(path: pathlib.Path) -> pathlib.Path:
    """Find the prefix of a checkpoint's files."""
    if path.is_dir():
        found = sorted(path.glob("*.index")) or sorted(path.glob("*/*.index"))
        if not found:
            raise CheckpointError(
                f"{path}: no checkpoint in this folder; a checkpoint has files like "
                "model.index and model.data-00000-of-00001"
            )
        return _newest([path.with_suffix("") for path in found if path.parent == found[0].parent])
    prefix = path.with_name(re.sub(r"\.(index|meta|data-\d+-of-\d+)$", "", path.name))
    if not prefix.with_name(prefix.name + ".index").is_file():
        raise CheckpointError(
            f"{path}: not a kind of weights file that can be read; name a checkpoint's folder, "
            "the prefix of its files, or an .h5 or .npz file"
        )
    return prefix


def _newest(prefixes: Sequence[pathlib.Path]) -> pathlib.Path:
    """Select a folder's newest checkpoint: that in its file "checkpoint", or of most steps."""
    state = tf.train.get_checkpoint_state(str(prefixes[0].parent))
    if state is not None:
        # By name: the whole path is that of the training, which a copied folder has left.
        named = pathlib.Path(state.model_checkpoint_path).name
        prefixes = [prefix for prefix in prefixes if prefix.name == named] or prefixes
    return max(prefixes, key=_steps)


def _steps(prefix: pathlib.Path) -> int:
    """Return the number of steps in the name of a checkpoint; -1 without one."""
    match = re.search(r"-(\d+)$", prefix.name)
    return int(match.group(1)) if match else -1


def _keys_by_name(shapes: Mapping[str, object], config: Config) -> dict[str, str]:
    """Map published names to the checkpoint's keys, without bookkeeping."""
    if "_CHECKPOINTABLE_OBJECT_GRAPH" not in shapes:
        return _keys_of_graph(shapes)
    keys = {}
    for key in shapes:
        if not object_paths.is_bookkeeping(key):
            average = key.removesuffix(object_paths.SUFFIX) + object_paths.AVERAGE
            keys[_name_of_object(key, config)] = average if average in shapes else key
    return keys


def _keys_of_graph(shapes: Mapping[str, object]) -> dict[str, str]:
    keys = {}
    for key in shapes:
        # An average, or an optimizer's slot: `<variable>/Momentum`.
        belongs_to_another = key.rpartition("/")[0] in shapes
        if not belongs_to_another and key != "global_step":
            name = key.removesuffix(_AVERAGE)
            keys[name] = name + _AVERAGE if name + _AVERAGE in shapes else key
    return keys


def _name_of_object(key: str, config: Config) -> str:
    name = object_paths.our_name(key, config.model.min_level)
    # The checkpoint's neck is a published one, whatever the model's is.
    config = config.model_copy(update={"neck": NeckConfig()})
    try:
        return reference_name(name, config) if name else key
    except ValueError:
        # An object of a larger model.
        return key

"""Run directory of a published model, to detect, evaluate and export without a training."""

import os
import pathlib
import tempfile

from efficientdet_tf.cache_directory import cache_directory
from efficientdet_tf.checkpoints import registry
from efficientdet_tf.config import Config
from efficientdet_tf.data.coco_classes import COCO_LABELS
from efficientdet_tf.files import WriteError, put_folder_in_place
from efficientdet_tf.run_directory import RunDirectory
from keras_layers.options import nearest

# Likeness from which a path is taken for the misspelt name of a published model.
_LIKE_A_NAME = 0.8


def local_model(given: str | os.PathLike) -> pathlib.Path:
    """Return the path of a model: that of the run directory for the name of a published one.

    Args:
      given: path, which goes first, or a name as "efficientdet-d0".

    Raises:
      UserError: see `published_run`; if there is nothing at the path, and it is nearly such a name.
    """
    path, name = pathlib.Path(given), os.fspath(given)
    if path.exists():
        return path
    models = [entry.name for entry in registry.ENTRIES.values() if entry.model]
    if name in models:
        return published_run(name)
    if near := nearest(name, models, _LIKE_A_NAME):
        raise registry.UnknownWeights(
            f"{name}: no such file or folder; did you mean {near!r}, a published model?"
        )
    return path


def published_run(name: str) -> pathlib.Path:
    """Return the run directory of a published model in the cache folder, made at the first call.

    Its weights are downloaded if necessary. It has the published settings and COCO's classes.

    Args:
      name: name of a model in `registry.ENTRIES`, e.g. "efficientdet-d0".

    Raises:
      UserError: when the weights cannot be downloaded or read, or the folder cannot be written.
    """
    folder = cache_directory() / "runs" / name
    if RunDirectory(folder).exists():
        return folder
    # Late: of a path that exists nothing of this is needed.
    from efficientdet_tf import model as model_lib
    from efficientdet_tf.checkpoints.pretrained import load_pretrained

    config = Config.for_model(name, **{"model.num_classes": len(COCO_LABELS)})
    model = model_lib.build(config)
    print(load_pretrained(model, config, name))
    # Complete when it has its name, whatever happens before and in other processes.
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder.parent) as workspace:
            run = RunDirectory(pathlib.Path(workspace, name))
            run.create(config, COCO_LABELS)
            run.save_weights(model, "best")
            put_folder_in_place(run.path, folder)
    except OSError as error:
        raise WriteError(f"{folder}: cannot be written: {error.strerror}") from error
    return folder

"""Flags of the commands that fuse detections: --tta, and several models of --model_path."""

import pathlib

from absl import flags

from efficientdet_tf.checkpoints.published_run import local_model
from efficientdet_tf.errors import UserError


def define_tta_flag(values: flags.FlagValues) -> None:
    """Declare --tta, which `efficientdet_tf.inference.views.build_views` reads."""
    flags.DEFINE_list(
        "tta",
        [],
        "Test-time augmentation, of: flip, scale. Also detect in the mirrored image, and in the "
        "image shrunk and enlarged, and fuse the detections; 2, 6 or, with both, 12 calls of the "
        "network for an image.",
        flag_values=values,
    )


def model_paths(model_path: str) -> list[pathlib.Path]:
    """Split --model_path into the paths of an ensemble; a path with commas that exists is one.

    The name of a published model stands for its run directory.

    Raises:
      UserError: if a path is missing, or given twice.
    """
    whole = pathlib.Path(model_path)
    paths = [whole] if whole.exists() else [local_model(name) for name in model_path.split(",")]
    for number, path in enumerate(paths):
        if path in paths[:number]:
            raise UserError(f"--model_path: {path} is given twice; use distinct models")
        if not path.exists():
            raise UserError(f"{path}: no such file or folder")
    return paths

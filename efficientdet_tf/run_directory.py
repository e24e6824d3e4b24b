"""Run directory: all files of a training run."""

import importlib.metadata
import io
import json
import os
import pathlib
import platform
from typing import TYPE_CHECKING

from efficientdet_tf import __version__, resuming
from efficientdet_tf.config import Config, ConfigError, format_value
from efficientdet_tf.data.records import DataError, LabelMap
from efficientdet_tf.errors import UserError
from efficientdet_tf.files import WriteError, write_atomically

if TYPE_CHECKING:
    import tf_keras as keras

_PACKAGES = ("tensorflow", "tf_keras", "tf-models-official", "numpy", "pycocotools")


# Format of the files of a run, in environment.json; increase it when older versions of the
# program can no longer use them. Files without a number have format 1.
FORMAT = 1


class RunDirectoryError(UserError):
    """An unusable run directory."""


class RunDirectory:
    """Files of a run by name.

    - `config.yaml`, `label_map.json`, `environment.json`: settings, classes and versions;
      `changes.json`: changes of settings when resumed; `recoveries.json`: recoveries from
      divergence.
    - `metrics.csv`, `skipped_images.csv`, `tensorboard/`, `report.html`: progress.
    - `training_images/`: `training_batch.png`, its first images, and `learning_rate.png`, the
      learning-rate range test.
    - `plan.json`: the plan of `--hours`.
    - `checkpoints/`: the training state, to resume from.
    - `best.weights.h5`, `last.weights.h5`: weights for inference, i.e. their
      moving average if the run has one.

    Args:
      path: path of the folder; it need not exist before `create`.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = pathlib.Path(path)

    @property
    def checkpoints(self) -> pathlib.Path:
        """Folder of the training state."""
        return self.path / "checkpoints"

    @property
    def training_images(self) -> pathlib.Path:
        """Folder of images of the training: its first ones, and charts."""
        return self.path / "training_images"

    def exists(self) -> bool:
        """Whether a run has been started here."""
        return (self.path / "config.yaml").is_file()

    def make(self) -> None:
        """Create the folder without changing a run in it.

        Raises:
          WriteError: when it cannot be created.
        """
        try:
            self.training_images.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(f"{self.path}: cannot be written: {error.strerror}") from error

    def create(self, config: Config, label_map: LabelMap) -> None:
        """Create the folder and write settings, classes and versions.

        Raises:
          WriteError: when it cannot be written.
          RunDirectoryError: when it contains a run that these settings cannot resume.
        """
        self.check(config, label_map)
        self.make()
        write_atomically(self.path / "config.yaml", config.to_yaml())
        write_atomically(self.path / "label_map.json", label_map.to_json())
        write_atomically(self.path / "environment.json", json.dumps(_environment(), indent=1))

    def config(self) -> Config:
        """Read the resolved config of the run.

        Raises:
          RunDirectoryError: when the folder contains no run.
        """
        if not self.exists():
            raise RunDirectoryError(f"{self.path}: no config.yaml; is this a run directory?")
        self._check_format()
        try:
            return Config.from_yaml(str(self.path / "config.yaml"))
        except ConfigError as error:
            raise RunDirectoryError(str(error)) from error

    def _check_format(self) -> None:
        path = self.path / "environment.json"
        try:
            number = json.loads(path.read_text(encoding="utf-8")).get("format", 1)
        except FileNotFoundError:
            return
        except (OSError, ValueError, AttributeError) as error:
            raise RunDirectoryError(f"{path}: cannot be read: {error}") from error
        if number > FORMAT:
            raise RunDirectoryError(
                f"{self.path}: written by a newer version (format {number}, this one reads up to "
                f"{FORMAT}); update the program"
            )

    def label_map(self) -> LabelMap:
        """Read the classes of the run.

        Raises:
          RunDirectoryError: when the file is missing or damaged.
        """
        path = self.path / "label_map.json"
        try:
            return LabelMap.from_json(path.read_text(encoding="utf-8"))
        except (OSError, DataError) as error:
            raise RunDirectoryError(f"{path}: {error}") from error

    def weights_file(self, weights: str = "best") -> pathlib.Path:
        """Return the path of the weights: "best" by validation AP, or "last".

        Raises:
          RunDirectoryError: when they are missing.
        """
        path = self._weights_path(weights)
        if not path.is_file():
            reason = "has the run finished its first epoch?"
            if self._weights_path("last").is_file():
                reason = (
                    "the run has not been evaluated yet (training.eval_interval_epochs); the "
                    "weights so far are in last.weights.h5"
                )
            raise RunDirectoryError(f"{path}: missing; {reason}")
        return path

    def load_model(
        self, weights: str = "best", image_size: tuple[int, int] | None = None
    ) -> "keras.Model":
        """Load the trained network.

        Args:
          weights: "best" by validation AP, or "last".
          image_size: (height, width) of its input in pixels; None is that of the run. Default None.

        Raises:
          RunDirectoryError: when the weights are missing or do not fit the config.
        """
        # A run that detects by an exported file does without TensorFlow.
        from efficientdet_tf import model as model_lib

        config, path = self.config(), self.weights_file(weights)
        if image_size is not None:
            config = config.override({"model.image_size": image_size})
        model = model_lib.build(config)
        try:
            model.load_weights(str(path))
        except (OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise RunDirectoryError(f"{path}: does not fit config.yaml: {reason}") from error
        return model

    def save_weights(self, model: "keras.Model", name: str) -> None:
        """Write `<name>.weights.h5`; after a crash the previous file remains.

        Raises:
          WriteError: when it cannot be written.
        """
        import tf_keras as keras

        # Without optimizer and metrics, which inference does not need.
        inference_model = keras.Model(model.inputs, model.outputs)
        write_atomically(self._weights_path(name), _weights_file(inference_model))

    def copy_weights(self, source: str, name: str) -> None:
        """Write `<name>.weights.h5` with the weights of `<source>.weights.h5`.

        Raises:
          WriteError: when it cannot be written.
        """
        write_atomically(self._weights_path(name), self.weights_file(source).read_bytes())

    def check(self, config: Config, label_map: LabelMap) -> None:
        """Check that there is no run here yet, or one that these settings and classes can resume.

        Raises:
          RunDirectoryError: when it cannot be resumed; the message names the differences.
        """
        if not self.exists():
            return
        refused = resuming.refused(self.config(), config)
        if refused:
            values = [
                f"{key} {format_value(old)}, not {format_value(new)}"
                for key, (old, new) in refused.items()
            ]
            raise RunDirectoryError(
                f"{self.path}: contains a run with {'; with '.join(values)}; "
                "use another --model_dir or the same settings"
            )
        if self.label_map() != label_map:
            raise RunDirectoryError(
                f"{self.path}: contains a run with other classes; use another --model_dir"
            )

    def _weights_path(self, name: str) -> pathlib.Path:
        return self.path / f"{name}.weights.h5"


def _weights_file(model: "keras.Model") -> bytes:
    """Serialise weights as `save_weights` of tf_keras 2.20.

    In memory, because HDF5 2.0 crashes with a segmentation fault when it cannot write to a
    disk.
    """
    from tf_keras.src.saving import saving_lib

    file = io.BytesIO()
    store = saving_lib.H5IOStore(file, mode="w")
    saving_lib._save_state(
        model, weights_store=store, assets_store=None, inner_path="", visited_trackables=set()
    )
    store.close()
    return file.getvalue()


def _environment() -> dict[str, str | int]:
    return {
        "format": FORMAT,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "efficientdet_tf": __version__,
        **{package: importlib.metadata.version(package) for package in _PACKAGES},
    }

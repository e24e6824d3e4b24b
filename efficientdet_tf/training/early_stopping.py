"""An end before the last epoch, where AP has stopped rising."""

import pathlib
import sys
from typing import Any

import tf_keras as keras
from tqdm import tqdm

from efficientdet_tf.metrics_history import evaluations_without_gain, read_history


class EarlyStopping(keras.callbacks.Callback):
    """Ends training after so many evaluations without a better AP than before.

    A run that is resumed counts on from its `metrics.csv`. Every process of a
    distributed training counts by itself, and comes to the same result, as all
    are told the same AP.

    Args:
      patience: evaluations; 0 is off.
      path: of the run's `metrics.csv`, which is read once.
      epochs_done: rows of later epochs, which are trained again, do not count.
      first_epoch: nor do rows of epochs before this one, counted from 0: their AP was measured
        with other settings. Default 0.
    """

    def __init__(
        self, patience: int, path: pathlib.Path, epochs_done: int, first_epoch: int = 0
    ) -> None:
        super().__init__()
        self._patience = patience
        self._history = [
            row for row in read_history(path).epochs if first_epoch < row["epoch"] <= epochs_done
        ]

    @property
    def is_over(self) -> bool:
        """Whether patience has ended, in this process or in one before."""
        return 0 < self._patience <= evaluations_without_gain(self._history)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        measured = {"AP": logs["AP"]} if "AP" in logs else {}
        self._history.append({"epoch": epoch + 1, **measured})
        if measured and self.is_over:
            self.model.stop_training = True
            count = f"{self._patience} evaluation{'s' if self._patience > 1 else ''}"
            tqdm.write(
                f"epoch {epoch + 1}: no better AP in {count}, training ends", file=sys.stderr
            )

"""Early stopping when AP no longer improves."""

import pathlib
import sys
from typing import Any

import tf_keras as keras
from tqdm import tqdm

from efficientdet_tf.metrics_history import evaluations_without_gain, read_history


class EarlyStopping(keras.callbacks.Callback):
    """Ends training after `patience` evaluations without a better AP.

    A resumed run continues the count from its `metrics.csv`. Every process of a
    distributed training counts separately, with the same result, because all
    receive the same AP.

    Args:
      patience: number of evaluations; 0 is off.
      path: path of the run's `metrics.csv`, which is read once.
      epochs_done: number of completed epochs; rows of later ones, which are trained again, do
        not count.
      first_epoch: index of the first epoch that counts, from 0: AP before it was measured with
        other settings. Default 0.
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
        """Whether patience is exhausted, in this process or an earlier one."""
        return 0 < self._patience <= evaluations_without_gain(self._history)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        measured = {"AP": logs["AP"]} if "AP" in logs else {}
        self._history.append({"epoch": epoch + 1, **measured})
        if measured and self.is_over:
            self.model.stop_training = True
            count = f"{self._patience} evaluation{'s' if self._patience > 1 else ''}"
            tqdm.write(
                f"epoch {epoch + 1}: early stopping: no AP improvement in {count}", file=sys.stderr
            )

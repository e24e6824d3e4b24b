"""Share of the training time that is spent waiting for data, and what to do about it."""

import sys
import time
from typing import Any

import numpy as np
import tf_keras as keras
from tqdm import tqdm

from efficientdet_tf.config import Config
from efficientdet_tf.data.record_columns import RecordColumns, training_records
from efficientdet_tf.data.records import DetectionData
from efficientdet_tf.training.memory import CACHE_SHARE, decoded_size, free_memory
from efficientdet_tf.training.stream import TrainingStream

# Below this share, faster input would hardly shorten the training.
_WORTH_ADVICE = 0.1
# Images of more times the network's input in height and width cost more to decode than to use.
_LARGE = 2.0


class DataWait(keras.callbacks.Callback):
    """Prints after each epoch what share of its steps was spent waiting for data.

    A step that begins before its batch has been delivered waits until then. The first step of
    the process is not counted: it builds the graph while the input starts.

    Args:
      stream: source of the training batches.
      advice: what to do where much is waited; "" for nothing.
    """

    def __init__(self, stream: TrainingStream, advice: str) -> None:
        super().__init__()
        self._stream = stream
        self._advice = advice
        self._is_first_step = True
        self._waited = self._total = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._waited = self._total = 0.0

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._begin = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        end, delivered = time.monotonic(), self._stream.next_delivery()
        if not self._is_first_step:
            self._waited += waited(self._begin, delivered, end)
            self._total += end - self._begin
        self._is_first_step = False

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._total:
            share = self._waited / self._total
            line = describe_wait(share, self._advice)
            tqdm.write(f"epoch {epoch + 1}: {line}", file=sys.stderr)


def waited(begin: float, delivered: float, end: float) -> float:
    """Return the seconds of a step, from `begin` to `end`, before its batch was delivered."""
    return min(max(delivered - begin, 0.0), end - begin)


def describe_wait(share: float, advice: str) -> str:
    """Describe the share of time waited, 0..1, with advice if it is worth it."""
    line = f"waited for data {100 * share:.0f} % of the time"
    return f"{line}; {advice}" if advice and share >= _WORTH_ADVICE else line


def advise(config: Config, data: DetectionData) -> str:
    """Advise how to make the input of a training faster."""
    if config.data.service:
        # Or receiving takes the time, which nothing helps.
        return f"give {config.data.service} more workers (python -m efficientdet_tf data serve)"
    records = training_records(data)
    sizes, decoded = RecordColumns.build(records).sizes, decoded_size(records)
    options = []
    may_cache = not (config.data.cache or config.data.shuffle_buffer)
    if may_cache and decoded < CACHE_SHARE * (free_memory() or 0):
        options.append(
            f"keep the decoded images in memory (--set data.cache=true, {decoded / 1e9:.1f} GB)"
        )
    height, width = config.model.image_size
    is_large = np.median(sizes.max(axis=1)) > _LARGE * max(height, width)
    if is_large and not (config.data.cache or config.data.reduce_jpeg):
        options.append(
            "decode JPEG files at a part of their size (--set data.reduce_jpeg=true) or store the "
            f"images at about {int(_LARGE * max(height, width))} px"
        )
    if config.augmentation.policy != "none":
        options.append("choose a cheaper augmentation than augmentation.policy")
    options.append("give it more processor cores")
    return ", or ".join(options)

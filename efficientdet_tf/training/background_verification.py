"""Complete decoding of all images beside the training."""

import sys
import threading
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from efficientdet_tf.data.image_verification import decode_unverified
from efficientdet_tf.data.record_columns import training_records
from efficientdet_tf.data.records import DetectionData

# Further ones are only counted.
_MOST_LINES = 10


class BackgroundVerification:
    """Context that decodes every image once, in a thread, and names those that cannot be decoded.

    Training skips such an image whenever it reads it. The order of images does not depend on what
    is found, so that a run can be resumed. Results are cached: a later start resumes after the last
    verified image.

    Args:
      data_sets: the data sets, in the order in which they are verified.
    """

    def __init__(self, *data_sets: DetectionData) -> None:
        self._data_sets = data_sets
        self._is_stopped = threading.Event()
        # A daemon: it must not keep a process alive that ends in another way.
        self._thread = threading.Thread(target=self._verify_all, daemon=True)

    def __enter__(self) -> "BackgroundVerification":
        self._thread.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._is_stopped.set()
        self._thread.join()

    def wait(self) -> None:
        """Wait until all images have been verified."""
        self._thread.join()

    def _verify_all(self) -> None:
        for data in self._data_sets:
            self._verify(training_records(data), data.source or "data set")
            if self._is_stopped.is_set():
                return

    def _verify(self, records: Sequence, source: str) -> None:
        bad = 0
        for record, problem in decode_unverified(records, self._is_stopped.is_set):
            bad += 1
            if bad <= _MOST_LINES:
                tqdm.write(f"{record.name}: {problem}; training skips it", file=sys.stderr)
        if not self._is_stopped.is_set():
            found = f"{bad} cannot be decoded" if bad else "all can be decoded"
            tqdm.write(f"{source}: {len(records)} images verified: {found}", file=sys.stderr)

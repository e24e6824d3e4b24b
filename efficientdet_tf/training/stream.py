"""Stream of training batches, and the images in each."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from efficientdet_tf.config import Config
from efficientdet_tf.data import augmenting, pipeline, reading, stream_order
from efficientdet_tf.data.deliveries import Deliveries
from efficientdet_tf.data.record_columns import training_records
from efficientdet_tf.data.record_images import why_unreadable
from efficientdet_tf.data.records import DataError, DetectionData, Record
from efficientdet_tf.data.stream_share import Share

# More would make the drawing of them unreadable.
_MOST_IMAGES = 8


class TrainingStream:
    """Stream of training images of one process, with a record of skipped images.

    Args:
      data: training set.
      config: resolved config.
      devices: distribution strategy.
      num_skipped: number of unreadable images in the stream before this process.
      plain_from: number of the first step without strong augmentation, counted from 0 over the
        whole run; None for no such step. Default None.
    """

    def __init__(
        self,
        data: DetectionData,
        config: Config,
        devices: tf.distribute.Strategy,
        num_skipped: int,
        plain_from: int | None = None,
    ) -> None:
        self._data = data
        self._records = training_records(data)
        self._config = config
        self._devices = devices
        # In images of the stream, where skipped ones count: a resumed run switches at the same one.
        self._plain_from = None if plain_from is None else plain_from * self._batch_size
        self._skipped_before = num_skipped
        self._unread_before = 0
        self._named: set[int] = set()
        self._workers, self._worker = 1, 0
        # Batches of a step in this process: one for each device.
        self._local_batches = 1
        self._start(0)

    @property
    def num_skipped(self) -> int:
        """Number of images skipped in the run by the end of the last step."""
        if self._config.data.cache:
            return self._skipped_before
        if self._is_served:
            return self._skipped_before + self._workers * len(self._failures.positions)
        # Skipped images of other workers are unknown; assume as many.
        return self._skipped_before + self._workers * self._skipped_among(self._images_done)

    @property
    def num_unread(self) -> int:
        """Number of images unreadable in this process by the end of the last step."""
        if self._config.data.cache:
            return self._unread_before + len(self._missing())
        if self._is_served:
            return self._unread_before + len(self._failures.positions)
        return self._unread_before + self._skipped_among(self._images_done)

    def batches(self, first_step: int) -> Iterator:
        """Distribute batches, starting at a step counted over the whole run."""
        self._skipped_before, self._unread_before = self.num_skipped, self.num_unread
        self._start(first_step * self._batch_size + self._skipped_before)

        def make_worker_dataset(context: tf.distribute.InputContext) -> tf.data.Dataset:
            self._workers, self._worker = context.num_input_pipelines, context.input_pipeline_id
            self._local_batches = context.num_replicas_in_sync // context.num_input_pipelines
            return pipeline.training_dataset(
                self._data,
                self._config,
                self._batch_size,
                seed=self._config.training.seed,
                first_image=self._first_image,
                plain_from=self._plain_from,
                worker=context,
                failures=self._failures,
                deliveries=self._deliveries,
            )

        return self._devices.distribute_datasets_from_function(make_worker_dataset)

    def first_images(self) -> tuple[np.ndarray, dict[str, np.ndarray]] | None:
        """Return images of the first step, at most 8, with their targets.

        None before the first batch.
        """
        return self._deliveries.first_images(self._share)

    def step_done(self) -> None:
        """Count the images of one step as consumed."""
        self._images_done += self._share

    def next_delivery(self) -> float:
        """Return when the batches of a step had been delivered, in seconds of `time.monotonic`.

        Call it once after every step: each call returns the time of the next step.
        """
        times = self._deliveries.times
        count = min(self._local_batches, len(times))
        delivered = [times.popleft() for _ in range(count)]
        return max(delivered, default=-math.inf)

    def newly_unreadable(self) -> Iterator[tuple[Record, str]]:
        """Yield each image newly found unreadable, and why."""
        found = self._failures.positions[self._positions_seen :]
        self._positions_seen += len(found)
        gaps = self._failures.gaps[self._gaps_seen :]
        self._gaps_seen += len(gaps)
        found += [position for gap in gaps for position in self._positions_of_gap(gap)]
        for position in dict.fromkeys(found):
            if position not in self._named:
                self._named.add(position)
                record = self._records[position]
                yield record, why_unreadable(record) or "unreadable earlier, readable now"

    def images_of_last_step(self) -> list[str]:
        """Name the images of the last step, including partners in mosaics and others.

        Images that a tf.data service prepared are not known: none is named.
        """
        if self._is_served:
            return []
        positions = self._positions_among(self._images_done - self._share)
        return [_name(self._records[position]) for position in positions]

    def explain(self, failure: tf.errors.OpError) -> DataError | None:
        """Return the user error that made the stream fail; None for a defect."""
        if self._failures.has_ended:
            return self._none_can_be_read()
        if self._is_served and isinstance(failure, tf.errors.NotFoundError):
            return DataError(
                f"data.service: {self._config.data.service} does not know this training any more, "
                "as its dispatcher was started again without its state (--state_dir)"
            )
        if self._config.data.strict and not self._is_served:
            cached = range(len(self._records)) if self._config.data.cache else ()
            for position in cached or self._positions_among(self._images_done):
                record = self._records[position]
                reason = why_unreadable(record)
                if reason:
                    return self._first_unreadable(record, reason)
        return None

    def _first_unreadable(self, record: Record, reason: str) -> DataError:
        return DataError(
            f"{record.name}: {reason}; data.strict ends training at the first image that cannot be "
            "read"
        )

    def _none_can_be_read(self) -> DataError:
        if self._is_served:
            count, position = len(self._failures.positions), self._failures.positions[-1]
        elif self._config.data.cache:
            first, end = self._failures.gaps[-1]
            count, position = end - first, end - 1
        else:
            first, end = self._failures.gaps[-1]
            count, last = (end - first) // self._workers, end - self._workers
            _, position = next(self._positions_from(last))
        record = self._records[position]
        reason = why_unreadable(record) or "unreadable earlier, readable now"
        if self._is_served and self._config.data.strict:
            return self._first_unreadable(record, reason)
        return DataError(
            f"training data: {count} images in a row cannot be read, the last "
            f"{record.name}: {reason}"
        )

    @property
    def _is_served(self) -> bool:
        return bool(self._config.data.service)

    @property
    def _batch_size(self) -> int:
        return self._config.training.batch_size

    @property
    def _share(self) -> int:
        """Number of images of a step in this process."""
        return self._batch_size // self._workers

    def _start(self, first_image: int) -> None:
        self._first_image = first_image
        self._images_done = 0
        self._failures = reading.ReadFailures()
        self._deliveries = Deliveries(_MOST_IMAGES)
        self._positions_seen = self._gaps_seen = 0
        self._order: Iterator[tuple[int, int]] | None = None

    def _missing(self) -> set[int]:
        """Return the positions of records missing from the cache."""
        if not self._config.data.cache:
            return set()
        return {position for gap in list(self._failures.gaps) for position in range(*gap)}

    def _skipped_among(self, images: int) -> int:
        """Count the images skipped before the last of `images` images that were not."""
        skipped = 0
        for first, end in list(self._failures.gaps):
            before = (first - self._first_image - self._worker) // self._workers - skipped
            if before >= images:
                break
            skipped += (end - first) // self._workers
        return skipped

    def _positions_of_gap(self, gap: tuple[int, int]) -> Iterator[int]:
        first, end = gap
        if self._config.data.cache:
            yield from range(first, end)
            return
        if self._order is None:
            # One pass from front to back, because gaps come in order.
            self._order = self._positions_from(self._first_image + self._worker)
        wanted = range(first, end, self._workers)
        for number, position in self._order:
            if number in wanted:
                yield position
            if number >= wanted[-1]:
                return

    def _positions_among(self, first: int) -> list[int]:
        """Return the record positions of a step with `first` images before it, with partners."""
        seed = self._config.training.seed
        numbers = [self._number(index) for index in range(first, first + self._share)]
        pairs = self._positions_from(numbers[0])
        position_of_number = dict(itertools.takewhile(lambda pair: pair[0] <= numbers[-1], pairs))
        positions = [position_of_number[number] for number in numbers]
        if augmenting.has_partners(self._config):
            partners = (
                augmenting.training_partners(
                    self._data, self._config, seed=seed, number=number, position=position
                )
                for number, position in zip(numbers, positions)
                if self._plain_from is None or number < self._plain_from
            )
            unread = set(self._failures.positions)
            drawn = itertools.chain.from_iterable(partners)
            positions += [position for position in drawn if position not in unread]
        return list(dict.fromkeys(positions))

    def _positions_from(self, number: int) -> Iterator[tuple[int, int]]:
        """Iterate over this worker's (number, position), from one of its own numbers on."""
        seed, first = self._config.training.seed, number - self._worker
        share = Share(seed, first, self._workers, self._worker)
        return stream_order.build(
            self._data, self._config, share, missing=self._missing()
        ).positions()

    def _number(self, index: int) -> int:
        """Return the stream number of an image by its index among the images not skipped."""
        skipped = 0 if self._config.data.cache else self._skipped_among(index + 1)
        return self._first_image + self._worker + self._workers * (index + skipped)


def _name(record: Record) -> str:
    return f"{record.image_id} ({record.name})"

"""Latency and throughput of several models, in a process with a chosen number of threads."""

import concurrent.futures.process
import multiprocessing
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from efficientdet_tf.errors import UserError
from efficientdet_tf.inference.frozen_network import freeze_network
from efficientdet_tf.inference.keras_runtimes import KerasBackend, load_saved_model
from efficientdet_tf.inference.onnx_runtimes import load_onnx
from efficientdet_tf.inference.runtimes import Backend
from efficientdet_tf.inference.tflite_runtime import load_tflite
from efficientdet_tf.run_directory import RunDirectory

BATCHES = (1, 8)
_UNTIMED, _TIMED, _TIMED_BATCHES = 3, 20, 4


class Candidate(NamedTuple):
    """A model that is to be timed.

    Attributes:
      format: key of `export.formats.FORMATS`, or `compared_runtimes.RUN`.
      runtime: see `efficientdet_tf.inference.compared_runtimes.ComparedRuntime`.
      path: run directory, or exported file or folder.
    """

    format: str
    runtime: str
    path: pathlib.Path


class Speed(NamedTuple):
    """Speed of a model.

    Attributes:
      latency_ms: median and 95th percentile of an image.
      throughput: {batch size: images per second}, of the median duration of a batch.
    """

    latency_ms: tuple[float, float]
    throughput: dict[int, float]


def measure_in_own_process(
    candidates: Sequence[Candidate],
    settings: dict[str, str],
    images: Sequence[np.ndarray],
    threads: int,
) -> list[Speed]:
    """Time models in a new process, as TensorFlow's number of threads is fixed once it runs.

    Args:
      candidates: models.
      settings: settings of the postprocessing that the run's own are overridden by.
      images: uint8 [h, w, 3], RGB, of any sizes.
      threads: number of threads.

    Returns:
      Speeds in the order of `candidates`.

    Raises:
      UserError: if the process is killed; the message is one line.
    """
    # Spawned, since TensorFlow does not survive a fork.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(_measure, candidates, settings, images, threads).result()
        except concurrent.futures.process.BrokenProcessPool as error:
            raise UserError(
                f"the process that times {len(candidates)} runtimes was killed, perhaps for lack "
                "of memory; compare fewer with --format"
            ) from error


def _measure(
    candidates: Sequence[Candidate],
    settings: dict[str, str],
    images: Sequence[np.ndarray],
    threads: int,
) -> list[Speed]:
    # Of importing frozen graphs.
    logging.set_verbosity(logging.ERROR)
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    backends = [_load(candidate, settings, threads) for candidate in candidates]
    # Batches of one size, of as many different images as there are.
    batches = {size: [images[i % len(images)] for i in range(size)] for size in BATCHES}
    single = _take_turns(backends, batches[1], _TIMED)
    durations = {1: [statistics.median(seconds) for seconds in single]}
    for size in BATCHES[1:]:
        turns = _take_turns(backends, batches[size], _TIMED_BATCHES)
        durations[size] = [statistics.median(seconds) for seconds in turns]
    return [
        Speed(
            (1e3 * statistics.median(seconds), 1e3 * float(np.percentile(seconds, 95))),
            {size: size / durations[size][index] for size in BATCHES},
        )
        for index, seconds in enumerate(single)
    ]


def _load(candidate: Candidate, settings: dict[str, str], threads: int) -> Backend:
    """Load a model for a number of threads; TensorFlow's is that of the process."""
    _, runtime, path = candidate
    if runtime == "keras":
        run = RunDirectory(path)
        config = run.config().override(settings)
        return KerasBackend(freeze_network(run.load_model(), config.model.image_size), config)
    if runtime == "tensorflow":
        return load_saved_model(path)[0]
    if runtime == "litert":
        return load_tflite(path, threads)[0]
    return load_onnx(path, runtime, threads)[0]


def _take_turns(
    backends: Sequence[Backend], images: Sequence[np.ndarray], rounds: int
) -> list[list[float]]:
    """Time each backend once a round, so that a slow period of the machine affects all.

    Returns:
      Seconds by backend and round, without the first rounds.
    """
    calls: list[Callable[[], object]] = [
        lambda backend=backend: backend.detect(images)  # type: ignore[misc]
        for backend in backends
    ]
    durations: list[list[float]] = [[] for _ in calls]
    for number in range(_UNTIMED + rounds):
        for call, seconds in zip(calls, durations):
            start = time.perf_counter()
            call()
            if number >= _UNTIMED:
                seconds.append(time.perf_counter() - start)
    return durations

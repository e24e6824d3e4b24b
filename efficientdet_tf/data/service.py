"""tf.data service: other processes, on other machines, prepare the images of a training.

A dispatcher gives each number of the stream to one of its workers, which reads, decodes and
augments that image. The graph has no Python in it: workers need no more of a data set than files at
the same paths. The images of a pass come in the order in which workers finish.
"""

import dataclasses
import os
import queue
import socket
import tempfile
import threading
from typing import Any

import numpy as np
import tensorflow as tf

from efficientdet_tf.data import stream_share
from efficientdet_tf.data.records import DataError, DetectionData
from efficientdet_tf.data.stream_share import Share

# Numbers that the dispatcher gives to a worker at once: a request each.
_BLOCK = 16
# Of a connection to the dispatcher, and of the first answer of a worker.
_CONNECTION_SECONDS, _ANSWER_SECONDS = 10.0, 30.0


@dataclasses.dataclass(frozen=True)
class ServedOrder:
    """Order of the images in a training stream where the place of each number is computed.

    Attributes:
      data: training set; unlabelled images are evenly spread among the others, at their share.
      share: what this worker of the training receives.
    """

    data: DetectionData
    share: Share

    def images(self) -> tf.data.Dataset:
        """Return the stream as (number in it, position among `record_columns.training_records`)."""
        share, end = self.share, np.iinfo(np.int64).max
        step = share.workers * _BLOCK
        blocks = tf.data.Dataset.range(share.first_number, end - step, step)
        numbers = blocks.flat_map(
            lambda begin: tf.data.Dataset.range(begin, begin + step, share.workers)
        )
        return numbers.map(lambda number: (number, self.position(number)))

    def position(self, number: tf.Tensor) -> tf.Tensor:
        """Return the position of the image with a number: each once in a pass; int64 scalar."""
        count, seed, unlabeled = len(self.data), self.share.seed, self.data.unlabeled
        if unlabeled is None:
            return _shuffled(number, count, seed)
        before, after = (stream_share.unlabeled_before(n, unlabeled) for n in (number, number + 1))
        return tf.where(
            after > before,
            count + _shuffled(before, len(unlabeled.records), seed + 1),
            _shuffled(number - before, count, seed),
        )


def _shuffled(number: tf.Tensor, count: int, seed: int) -> tf.Tensor:
    """Return what comes as `number` in an endless stream of shuffled passes over `count` images."""
    return stream_share.shuffled(number % count, count, seed, number // count)


def check_address(address: str, setting: str = "--dispatcher") -> None:
    """Raise `DataError` unless a dispatcher's address is valid and somebody answers there.

    Args:
      address: "grpc://host:port".
      setting: what the message calls the address. Default "--dispatcher".
    """
    protocol, _, place = address.rpartition("://")
    host, _, port = place.rpartition(":")
    if protocol != "grpc" or not host or not port.isdecimal():
        raise DataError(f"{setting}: {address} is no address such as grpc://10.0.0.1:5050")
    try:
        # An IPv6 address has brackets.
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECTION_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise DataError(
            f"{setting}: nobody answers at {address} ({error}); start the dispatcher there with "
            f"`python -m efficientdet_tf data serve --port={port}`"
        ) from error


def check_service(address: str) -> None:
    """Raise `DataError` unless a worker of a dispatcher prepares something for this process.

    Otherwise a training would wait for its first batch without end and without a word.

    Args:
      address: "grpc://host:port".
    """
    check_address(address, "data.service")
    answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def ask() -> None:
        service = tf.data.experimental.service
        every = service.distribute(service.ShardingPolicy.OFF, address)
        try:
            next(iter(tf.data.Dataset.range(1).apply(every)))
        except tf.errors.OpError as error:
            answers.put(error.message.rpartition("}} ")[2].partition(" [Op:")[0])
        else:
            answers.put(None)

    # TensorFlow has no limit of its own for this.
    threading.Thread(target=ask, daemon=True).start()
    try:
        fault = answers.get(timeout=_ANSWER_SECONDS)
    except queue.Empty:
        raise DataError(
            f"data.service: no worker of {address} answers within {_ANSWER_SECONDS:.0f} s; "
            "see that one runs (python -m efficientdet_tf data serve) and is reached by its name "
            "(--host)"
        ) from None
    if fault:
        raise DataError(
            f"data.service: {address} refuses ({fault}); see that it is a dispatcher with the "
            f"TensorFlow of this process, {tf.__version__}"
        )


def served(stream: tf.data.Dataset, address: str) -> tf.data.Dataset:
    """Have the workers of a dispatcher compute a stream, each element once.

    Args:
      stream: built upon `ServedOrder.images`.
      address: "grpc://host:port".
    """
    return stream.apply(
        tf.data.experimental.service.distribute(
            processing_mode=tf.data.experimental.service.ShardingPolicy.DYNAMIC, service=address
        )
    )


def start(
    port: int, dispatcher: str | None, host: str, state_dir: str | None = None
) -> tuple[str, list[Any]]:
    """Start a worker, and a dispatcher unless there is one.

    Args:
      port: port of the dispatcher, or of the worker if the dispatcher is elsewhere; 0 for any.
      dispatcher: address of a running dispatcher, "grpc://host:port"; None to start one.
      host: name or address at which trainings reach this machine.
      state_dir: folder in which a dispatcher keeps its state, to resume when it is started again at
        the same port; None for none. Default None.

    Returns:
      The dispatcher's address, "grpc://host:port", and the servers, which end with their last
      reference.

    Raises:
      DataError: if the port is in use, the dispatcher is not there, the host is unknown, or the
        folder cannot be written.
    """
    service = tf.data.experimental.service
    _check_free(port)
    _check_host(host)
    if state_dir is not None:
        _check_writable(state_dir)
    servers: list[Any] = []
    if dispatcher is None:
        server = service.DispatchServer(
            service.DispatcherConfig(
                port=port, work_dir=state_dir, fault_tolerant_mode=state_dir is not None
            )
        )
        servers.append(server)
        address, port = f"{host}:{server.target.rpartition(':')[2]}", 0
    else:
        check_address(dispatcher)
        address = dispatcher.removeprefix("grpc://")
    config = service.WorkerConfig(
        dispatcher_address=address, worker_address=f"{host}:%port%", port=port
    )
    servers.append(service.WorkerServer(config))
    return f"grpc://{address}", servers


def _check_free(port: int) -> None:
    """Raise `DataError` if a port is in use, which TensorFlow's servers would share."""
    try:
        with socket.socket() as probe:
            # Free is also a port whose last connections are about to end.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", port))
    except OSError as error:
        raise DataError(f"--port: {port} cannot be used: {error}; choose another") from error


def _check_host(host: str) -> None:
    """Raise `DataError` if a host is unknown, which the worker would ask for again and again."""
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        raise DataError(f"--host: {host}: {error.strerror}") from error


def _check_writable(folder: str) -> None:
    """Make a folder; raise `DataError` if it cannot be written."""
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DataError(f"--state_dir: {folder} cannot be written: {error.strerror}") from error

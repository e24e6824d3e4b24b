"""Benchmark of a served model: latency, throughput and memory by batch size and clients.

    python -m benchmarks.serving --model_dir=runs/demo --requests=400

Calls the signature `serving_default` of a SavedModel from concurrent threads, as a server does,
with JPEG files of 640x427 pixels. One image in twenty is damaged; each has to come back with its
status, and all others with "ok". Prints percentiles of the time of a request, images per second,
and by how much the process grew.
"""

import concurrent.futures
import itertools
import pathlib
import tempfile
import time

import numpy as np
import tensorflow as tf
from absl import flags
from sklearn.datasets import load_sample_image

from benchmarks.measuring import resident
from efficientdet_tf.cli import command_line
from efficientdet_tf.errors import UserError
from efficientdet_tf.run_directory import RunDirectory
from export import saved_model

FLAGS = flags.FlagValues()

flags.DEFINE_string("model_dir", None, "Run directory.", flag_values=FLAGS)
flags.DEFINE_list("batches", ["1", "8"], "Images of a request.", flag_values=FLAGS)
flags.DEFINE_list("clients", ["1", "2", "4"], "Concurrent clients.", flag_values=FLAGS)
flags.DEFINE_integer("requests", 200, "Requests of each row.", lower_bound=1, flag_values=FLAGS)

_DAMAGED_EVERY = 20


def main() -> None:
    """Export the run to a temporary folder, and print a row for each batch size and clients."""
    command_line.require(FLAGS, "model_dir")
    run = RunDirectory(FLAGS.model_dir)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "saved_model")
        saved_model.export(run.load_model(), run.config(), run.label_map(), path)
        serve = tf.saved_model.load(str(path)).signatures["serving_default"]
        print(
            f"{'images':>8}{'clients':>9}{'p50':>10}{'p95':>10}{'p99':>10}{'images/s':>10}{'grown':>9}"
        )
        for batch in map(int, FLAGS.batches):
            for clients in map(int, FLAGS.clients):
                print(row(serve, batch, clients, FLAGS.requests), flush=True)


def row(serve, batch: int, clients: int, requests: int) -> str:
    """Send requests, check every answer, and format the figures."""
    image = tf.io.encode_jpeg(load_sample_image("china.jpg"), quality=95).numpy()
    damaged = image[: len(image) // 2]
    numbers = itertools.count()

    def request(_) -> float:
        files = [damaged if next(numbers) % _DAMAGED_EVERY == 0 else image for _ in range(batch)]
        began = time.perf_counter()
        status = serve(image_bytes=tf.constant(files))["status"].numpy()
        seconds = time.perf_counter() - began
        expected = [saved_model.UNREADABLE if file is damaged else "ok" for file in files]
        if [value.decode() for value in status] != expected:
            raise UserError(f"an answer has the status {status}")
        return seconds

    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        # Until TensorFlow has optimised the graph and every thread has its memory.
        list(pool.map(request, range(10 * clients)))
        before, began = resident("VmRSS"), time.perf_counter()
        seconds = list(pool.map(request, range(requests)))
        duration = time.perf_counter() - began
    p50, p95, p99 = 1e3 * np.percentile(seconds, (50, 95, 99))
    grown = (resident("VmRSS") - before) / 1e6
    return (
        f"{batch:>8}{clients:>9}{p50:>7.1f} ms{p95:>7.1f} ms{p99:>7.1f} ms"
        f"{batch * requests / duration:>10.1f}{grown:>6.0f} MB"
    )


if __name__ == "__main__":
    command_line.run(
        command_line.Command("serving benchmark", __doc__, lambda: FLAGS, lambda _: main())
    )

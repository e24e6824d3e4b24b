"""Benchmark of .tflite files of any program: seconds of the interpreter, taking turns.

    python -m benchmarks.tflite_files --files=a.tflite,b.tflite --threads=1,2

The input is a photograph, in the size and type that a file takes. Ratios are to the first file.
"""

import statistics
import time

import numpy as np
import PIL.Image
from absl import flags

from efficientdet_tf.cli import command_line

FLAGS = flags.FlagValues()

flags.DEFINE_list("files", None, "Files to compare.", flag_values=FLAGS)
flags.DEFINE_list("threads", ["1", "2"], "Numbers of threads.", flag_values=FLAGS)
flags.DEFINE_integer("repeats", 50, "Timed rounds, after ten.", lower_bound=1, flag_values=FLAGS)


def main() -> None:
    """Print median and least milliseconds of each file, and the ratio of the medians."""
    command_line.require(FLAGS, "files")
    for threads in map(int, FLAGS.threads):
        calls = [prepared(path, threads) for path in FLAGS.files]
        durations: list[list[float]] = [[] for _ in calls]
        for index in range(FLAGS.repeats + 10):
            for call, seconds in zip(calls, durations):
                start = time.perf_counter()
                call()
                if index >= 10:
                    seconds.append(1e3 * (time.perf_counter() - start))
        medians = [statistics.median(seconds) for seconds in durations]
        print(f"{threads} threads" + " " * 41 + f"{'median':>10}{'least':>10}{'ratio':>7}")
        for path, median, seconds in zip(FLAGS.files, medians, durations):
            ratio = median / medians[0]
            print(f"{path[-50:]:<50}{median:>7.2f} ms{min(seconds):>7.2f} ms{ratio:>7.2f}")


def prepared(path: str, threads: int):
    """Load a file, set its input, and return the function that runs it."""
    from ai_edge_litert.interpreter import Interpreter
    from sklearn.datasets import load_sample_image

    interpreter = Interpreter(model_path=path, num_threads=threads)
    interpreter.allocate_tensors()
    [details] = interpreter.get_input_details()
    height, width = details["shape"][1:3]
    image = PIL.Image.fromarray(load_sample_image("china.jpg")).resize((width, height))
    interpreter.set_tensor(details["index"], np.asarray(image)[None].astype(details["dtype"]))
    return interpreter.invoke


if __name__ == "__main__":
    command_line.run(
        command_line.Command("TFLite file benchmark", __doc__, lambda: FLAGS, lambda _: main())
    )

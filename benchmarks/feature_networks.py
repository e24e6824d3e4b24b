"""Benchmark of the feature networks: size, cost, speed and accuracy.

    python -m benchmarks.feature_networks --models=efficientdet-d0

Prints for each network, with the cells of table 5 of the paper or the fewest it is made for:
trainable parameters and multiply-adds, including the projection of level 6, relative to those
of FPN beside the paper's ratios (for D3), and time and memory of the network alone for one
image, in Keras and in TFLite on one thread. Each is measured in a process of its own.

    python -m benchmarks.feature_networks --models=efficientdet-d0,efficientdet-d3 --fusion

The time of BiFPN by fusion method, as in table 6.

    python -m benchmarks.feature_networks --train=digits --output=runs/feature_networks

Trains a small detector with each network and three seeds, on the built-in digits or a data set
as `--train=PATH --val=PATH`, and draws AP. Results are kept in `--output`: the same command goes
on where it was interrupted.
"""

from typing import NamedTuple

from absl import flags

from benchmarks import feature_network_training
from benchmarks.compared_networks import NETWORKS, PUBLISHED, Compared
from benchmarks.measuring import in_own_process, median_seconds, resident
from efficientdet_tf.cli import command_line
from efficientdet_tf.config import Config

FLAGS = flags.FlagValues()

flags.DEFINE_list("models", ["efficientdet-d0"], "Rows of the model table.", flag_values=FLAGS)
flags.DEFINE_integer(
    "repeats", 30, "Timed calls, after two untimed.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_bool("fusion", False, "Time the fusion methods of BiFPN.", flag_values=FLAGS)
flags.DEFINE_string(
    "train", "", "Train with each network: `digits`, or a training set.", flag_values=FLAGS
)
flags.DEFINE_string("val", "", "Validation set of `--train`.", flag_values=FLAGS)
flags.DEFINE_integer("seeds", 3, "Trainings of a network.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_string(
    "output", "runs/feature_networks", "Folder of results of `--train`.", flag_values=FLAGS
)
flags.DEFINE_multi_string(
    "set", [], "Settings of `--train` as key=value, as train.py takes them.", flag_values=FLAGS
)


class Measured(NamedTuple):
    """Cost of a feature network alone, for one image.

    Attributes:
      parameters: trainable parameters, with those of the extra levels.
      multiply_adds: multiply-adds, with those of the extra levels.
      keras: median seconds of a call as a TensorFlow function.
      tflite: median seconds of a call in TFLite on one thread.
      tflite_memory: growth of the process in bytes by the TFLite interpreter.
    """

    parameters: int
    multiply_adds: int
    keras: float
    tflite: float
    tflite_memory: int


def main() -> None:
    """Print the tables that the flags ask for."""
    if FLAGS.train:
        feature_network_training.run(FLAGS)
        return
    for model in FLAGS.models:
        config = Config.for_model(model)
        print(f"{model}, {config.model.image_size[0]} x {config.model.image_size[1]}")
        _print_fusion(config) if FLAGS.fusion else _print_networks(config)


def _print_networks(config: Config) -> None:
    head = f"{'network':<24}{'parameters':>12}{'ratio':>7}{'paper':>7}"
    print(f"{head}{'Madds':>9}{'ratio':>7}{'paper':>7}{'Keras':>10}{'TFLite':>10}{'memory':>10}")
    first = None
    for row in NETWORKS:
        got = in_own_process(measure, config.model.name, row, FLAGS.repeats)
        first = first or got
        published = PUBLISHED.get((row.name, row.fusion), ("", "", ""))
        print(
            f"{row.title(config):<24}{got.parameters:>12,}"
            f"{got.parameters / first.parameters:>7.2f}{published[0]:>7}"
            f"{got.multiply_adds / 1e6:>8.0f}M"
            f"{got.multiply_adds / first.multiply_adds:>7.2f}{published[1]:>7}"
            f"{1e3 * got.keras:>7.1f} ms{1e3 * got.tflite:>7.1f} ms"
            f"{got.tflite_memory / 1e6:>7.0f} MB",
            flush=True,
        )


def _print_fusion(config: Config) -> None:
    print(f"{'fusion':<16}{'Keras':>10}{'TFLite':>10}{'softmax / this':>16}")
    rows = [row for row in NETWORKS if row.name == "bifpn"]
    rows.sort(key=lambda row: row.fusion != "softmax")
    slowest = None
    for row in rows:
        got = in_own_process(measure, config.model.name, row, FLAGS.repeats)
        slowest = slowest or got
        print(
            f"{row.fusion:<16}{1e3 * got.keras:>7.1f} ms{1e3 * got.tflite:>7.1f} ms"
            f"{slowest.keras / got.keras:>8.2f}{slowest.tflite / got.tflite:>8.2f}",
            flush=True,
        )


def measure(model_name: str, row: Compared, repeats: int) -> Measured:
    """Measure a feature network of a model of the model table."""
    import numpy as np
    import tensorflow as tf
    import tf_keras as keras
    from ai_edge_litert.interpreter import Interpreter

    from efficientdet_tf import model as model_lib
    from efficientdet_tf.complexity import measure_parts

    base = Config.for_model(model_name)
    model = model_lib.build(base.override(row.settings(base)))
    costs = measure_parts(model)
    costs = [costs[name] for name in ("extra_levels", "feature_network") if name in costs]
    network = model.get_layer("feature_network")
    # With the image, which RFP takes besides the features.
    [node] = network.inbound_nodes
    alone = keras.Model(node.keras_inputs, network.output)
    specs = [tf.TensorSpec([1, *x.shape[1:]], tf.float32) for x in alone.inputs]
    call = tf.function(lambda *x: alone(list(x), training=False), autograph=False)
    inputs = [tf.random.stateless_uniform(spec.shape, [1, 2]) for spec in specs]
    in_keras, _ = median_seconds(lambda: call(*inputs)[3].numpy(), repeats)

    function = call.get_concrete_function(*specs)
    content = tf.lite.TFLiteConverter.from_concrete_functions([function], alone).convert()
    before = resident("VmRSS")
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], np.ones(detail["shape"], np.float32))
    in_tflite, _ = median_seconds(interpreter.invoke, repeats)
    return Measured(
        sum(part.trainable for part in costs),
        sum(part.multiply_adds for part in costs),
        in_keras,
        in_tflite,
        resident("VmRSS") - before,
    )


if __name__ == "__main__":
    command_line.run(
        command_line.Command("feature network benchmark", __doc__, lambda: FLAGS, lambda _: main())
    )

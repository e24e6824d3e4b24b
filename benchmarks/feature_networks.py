"""Benchmark of the feature networks: size, cost and speed.

    python -m benchmarks.feature_networks --model=efficientdet-d0

Prints, for each network with the number of repeats whose cost is close to that of the
model's BiFPN: trainable parameters and multiply-adds, including the projection of level 6,
and the median time of the network alone for one image.
"""

import statistics
import time

import tensorflow as tf
from absl import flags

from efficientdet_tf import model as model_lib
from efficientdet_tf.cli import command_line
from efficientdet_tf.complexity import measure_parts
from efficientdet_tf.config import Config

FLAGS = flags.FlagValues()

flags.DEFINE_string("model", "efficientdet-d0", "Row of the model table.", flag_values=FLAGS)
flags.DEFINE_integer(
    "repeats", 30, "Timed calls, after three untimed.", lower_bound=1, flag_values=FLAGS
)

# Name, fusion, options, and cells per cell of the model's BiFPN.
ROWS = (
    ("bifpn", "fast", {}, 1),
    ("bifpn", "sum", {}, 1),
    ("fpn", "sum", {}, 2),
    ("pafpn", "sum", {}, 1),
)


def main() -> None:
    """Print a line for each network."""
    base = Config.for_model(FLAGS.model)
    print(f"{'network':<24}{'parameters':>12}{'multiply-adds':>16}{'ms':>8}")
    for name, fusion, options, factor in ROWS:
        cells = factor * base.neck.num_repeats
        config = base.override(
            {
                "neck.name": name,
                "neck.fusion": fusion,
                "neck.options": options,
                "neck.num_repeats": cells,
            }
        )
        model = model_lib.build(config)
        parts = measure_parts(model)
        parts = [parts["extra_levels"], parts["feature_network"]]
        print(
            f"{f'{name} {fusion} x{cells}':<24}{sum(p.trainable for p in parts):>12,}"
            f"{sum(p.multiply_adds for p in parts):>16,}"
            f"{1000 * median_seconds(model.get_layer('feature_network'), FLAGS.repeats):>8.1f}"
        )


def median_seconds(network, repeats: int) -> float:
    """Measure the median duration of a built network for one image."""
    features = {level: tf.ones([1, *x.shape[1:]]) for level, x in network.input.items()}
    call = tf.function(lambda: network(features, training=False))
    durations = []
    for _ in range(repeats + 3):
        start = time.perf_counter()
        tf.nest.map_structure(lambda x: x.numpy(), call())
        durations.append(time.perf_counter() - start)
    return statistics.median(durations[3:])


if __name__ == "__main__":
    command_line.run(
        command_line.Command("feature network benchmark", __doc__, lambda: FLAGS, lambda _: main())
    )

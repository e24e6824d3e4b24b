"""Command line: draw the feature network of a config."""

import pathlib
from typing import TYPE_CHECKING

from absl import flags

from efficientdet_tf.cli import command_line
from efficientdet_tf.cli.config_flags import config_from_flags, define_config_flags
from efficientdet_tf.errors import UserError
from efficientdet_tf.files import WriteError, write_atomically
from efficientdet_tf.output_files import OutputError, check_replaceable, is_own_text

if TYPE_CHECKING:
    from efficientdet_tf.config import Config

# TensorFlow is imported in functions, so that --help and flag errors are fast.


def define_flags() -> flags.FlagValues:
    """Declare the flags of the command."""
    values = flags.FlagValues()
    define_config_flags(values)
    flags.DEFINE_string(
        "neck", None, "Feature network, e.g. bifpn; as --set neck.name.", flag_values=values
    )
    flags.DEFINE_string("output", None, "SVG file to write, e.g. bifpn.svg.", flag_values=values)
    return values


def draw(config: "Config") -> str:
    """Build the feature network of a config, and draw it.

    Returns:
      An SVG document.

    Raises:
      ConfigError: for invalid settings of the neck.
    """
    from efficientdet_tf.model import build_feature_pyramid
    from efficientdet_tf.visualization.network_drawing import draw_network
    from keras_layers.network_graph import graph_of

    network = build_feature_pyramid(config).get_layer("feature_network")
    return draw_network(graph_of(network), config.neck.name)


def main(values: flags.FlagValues) -> None:
    """Write the drawing, and print its path.

    Raises:
      UserError: if a setting is invalid or the output cannot be written.
    """
    command_line.require(values, "output")
    output = pathlib.Path(values.output)
    if output.suffix.lower() != ".svg":
        raise OutputError(f"--output: {output} is not named as an SVG file; use e.g. bifpn.svg")
    check_replaceable(output, is_own_text)
    drawing = draw(config_from_flags(values, {"neck": "neck.name"}))
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(output, drawing)
    except (WriteError, OSError) as error:
        raise UserError(f"--output: {error}") from error
    print(f"Written to {output}")


COMMAND = command_line.Command("draw", "Draw a feature network as SVG.", define_flags, main)


def run() -> None:
    """Run the command: entry point of the console script."""
    command_line.run(COMMAND)

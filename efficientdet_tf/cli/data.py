"""Command line: work on a data set; the first argument names the command."""

import sys
from collections.abc import Sequence

from efficientdet_tf.cli import (
    command_line,
    data_anchors,
    data_check,
    data_convert,
    data_serve,
    data_show,
    data_split,
    data_stats,
)

NAME = "data"
COMMANDS = {
    "anchors": data_anchors.COMMAND,
    "check": data_check.COMMAND,
    "convert": data_convert.COMMAND,
    "serve": data_serve.COMMAND,
    "show": data_show.COMMAND,
    "split": data_split.COMMAND,
    "stats": data_stats.COMMAND,
}
# What the list of all commands says.
COMMAND = command_line.choose(NAME, COMMANDS, ())[0]._replace(summary="Work on data sets.")


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command: entry point of the console script.

    Args:
      arguments: arguments of the command line; None for those of the process. Default None.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    command_line.run(*command_line.choose(NAME, COMMANDS, arguments))

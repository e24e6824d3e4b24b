"""Entry point of `python -m efficientdet_tf train|eval|...`."""

import sys

from efficientdet_tf.cli import (
    command_line,
    data,
    draw,
    eval,
    predict,
    report,
    settings,
    train,
    write_digits,
)

COMMANDS = {
    command.name: command
    for command in (
        train.COMMAND,
        eval.COMMAND,
        predict.COMMAND,
        data.COMMAND,
        report.COMMAND,
        draw.COMMAND,
        settings.COMMAND,
        write_digits.COMMAND,
    )
}


def main() -> None:
    """Run the command that the first argument names."""
    arguments = sys.argv[1:]
    if arguments[:1] == [data.NAME]:
        data.run(arguments[1:])
    command_line.run(*command_line.choose("efficientdet_tf", COMMANDS, arguments))


if __name__ == "__main__":
    main()

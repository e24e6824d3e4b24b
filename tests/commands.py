"""Calls of the program's commands in this process, as starting another takes seconds."""

import contextlib
import io
import pathlib
import subprocess
import sys
from typing import NamedTuple

from efficientdet_tf import __main__ as package
from efficientdet_tf.cli import command_line, data, eval, train
from export import __main__ as export

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]


class Done(NamedTuple):
    """Result of a command."""

    returncode: int
    stdout: str
    stderr: str


def call(*words: object) -> Done:
    """Call a command in this process.

    Args:
      *words: what follows "python" on the command line, e.g. "train.py", "--epochs=1".
    """
    command, arguments = _command([str(word) for word in words])
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = command_line.call(command, arguments)
    return Done(code, out.getvalue(), err.getvalue())


def start(*words: object, **options) -> Done:
    """Run a command in a separate process, for tests of the process itself."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        **{"cwd": REPOSITORY, "capture_output": True, "text": True} | options,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def _command(words: list[str]) -> tuple[command_line.Command, list[str]]:
    match words:
        case ["train.py", *arguments]:
            return train.COMMAND, arguments
        case ["eval.py", *arguments]:
            return eval.COMMAND, arguments
        case ["-m", "export", *arguments]:
            return export.COMMAND, arguments
        case ["-m", "efficientdet_tf", data.NAME, *arguments]:
            return command_line.choose(data.NAME, data.COMMANDS, arguments)
        case ["-m", "efficientdet_tf", *arguments]:
            return command_line.choose("efficientdet_tf", package.COMMANDS, arguments)
    raise ValueError(f"no command of ours: {words}")

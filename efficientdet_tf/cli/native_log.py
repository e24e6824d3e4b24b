"""Filter of the log lines that TensorFlow's C++ code writes to standard error.

TensorFlow, its compiler and LiteRT write to file descriptor 2 by themselves: which
CPU instructions they use, that there is no GPU, that a delegate was created.
TF_CPP_MIN_LOG_LEVEL governs only some of these lines, and the level that hides
them all hides errors, too. Here the descriptor leads to a small process that
passes on what is worth reading. It is another process so that the last words of
one that crashes are not lost. What Python writes does not go through it.

Run as a script, this file is that process, so it imports only what is small.
"""

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import IO, BinaryIO

_LEVEL_VARIABLE = "TF_CPP_MIN_LOG_LEVEL"
# Without a level of the user's: no INFO, and of the rest all but `_NOISE`.
_DEFAULT_LEVEL = "1"
_SECONDS_TO_END = 5
# An incomplete line is passed on after this time.
_SECONDS_FOR_A_LINE = 0.2

# "2026-01-31 12:00:00.000000: W file.cc:7] ..." of TensorFlow, "W0000 00:00:1769860800.0  12
# file.cc:7] ..." of absl, "INFO: Created TensorFlow Lite ..." of LiteRT.
_BEGINNING = re.compile(
    rb"(?:\d{4}-\d\d-\d\d [\d:.]+: (?=[IWEF] \S+:\d+\] )"
    rb"|(?=[IWEF]\d{4} [\d:.]+ +\d+ \S+:\d+\] )"
    rb"|(?=(?:INFO|WARNING|ERROR): ))([IWEF])"
)

# Warnings and errors of a program that works.
_NOISE = re.compile(
    rb"All log messages before absl::InitializeLog\(\) is called"
    # A machine without a GPU, or one whose CUDA_VISIBLE_DEVICES hides it.
    rb"|failed call to cuInit: .*(UNKNOWN ERROR \(303\)|CUDA_ERROR_NO_DEVICE)"
    rb"|TF-TRT Warning: Could not find TensorRT"
    # Of parts that are linked into TensorFlow twice.
    rb"|Unable to register cu(FFT|DNN|BLAS) factory"
    rb"|computation placer already registered"
    # Of large operands, and of optimizations that are tried and given up.
    rb"|Allocation of \d+ exceeds \d+% of free system memory"
    rb"|layout failed: INVALID_ARGUMENT: Size of values 0 does not match"
    rb"|Error in PredictCost\(\) for the op"
    # Of data sets, which end or come from Python.
    rb"|Input of GeneratorDatasetOp::Dataset will not be optimized"
    rb"|Local rendezvous is aborting with status: OUT_OF_RANGE: End of sequence"
    rb"|The calling iterator did not fully read the dataset being cached"
    # Of the TFLite converter, about its own settings.
    rb"|Ignored (output_format|drop_control_dependency)\."
)


@contextlib.contextmanager
def filtered() -> Iterator[None]:
    """A context in which standard error has no noise of TensorFlow's C++ code.

    To be entered before TensorFlow is imported. A TF_CPP_MIN_LOG_LEVEL of the user
    is obeyed to the letter, also for lines that TensorFlow does not apply it to.
    """
    level = os.environ.get(_LEVEL_VARIABLE, "")
    os.environ.setdefault(_LEVEL_VARIABLE, _DEFAULT_LEVEL)
    before = sys.stderr
    try:
        # Never closed: a thread that outlives the context may have got hold of it.
        console = open(  # noqa: SIM115
            os.dup(2), "w", buffering=1, encoding=before.encoding, errors=before.errors
        )
        process = _start(level)
    except (OSError, AttributeError):
        # No standard error, or no room for a process: nothing is filtered.
        yield
        return
    assert process.stdin is not None
    os.dup2(process.stdin.fileno(), 2)
    process.stdin.close()
    _let_python_write_to(console)
    try:
        yield
    finally:
        os.dup2(console.fileno(), 2)
        _let_python_write_to(before)
        # It ends with its input, unless a process that we started still holds that.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_SECONDS_TO_END)


def _start(level: str) -> subprocess.Popen:
    """The process that passes on from its standard input what is worth reading."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, level],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        # A Ctrl-C at the terminal is for the command, whose last lines come after it.
        start_new_session=True,
    )


def _let_python_write_to(file: IO) -> None:
    """Makes `file` the standard error of Python, and of absl's log, which has its own."""
    from absl import logging

    sys.stderr = file
    logging.get_absl_handler().python_handler.setStream(file)


def is_worth_reading(line: bytes, level: str) -> bool:
    """Whether a line should reach the terminal.

    Args:
      line: what a process wrote to standard error.
      level: TF_CPP_MIN_LOG_LEVEL as the user has it; empty where it is not set.
    """
    beginning = _BEGINNING.match(line)
    if beginning is None:
        return True
    severity = b"IWEF".index(beginning.group(1))
    if level.isdigit():
        return severity >= int(level)
    return severity >= int(_DEFAULT_LEVEL) and not _NOISE.search(line)


def pass_on(source: int, target: BinaryIO, level: str) -> None:
    """Copies the lines that are worth reading, until the source ends.

    Args:
      source: descriptor to read.
      target: file to write to.
      level: of `is_worth_reading`.
    """
    rest = b""
    while True:
        is_late = rest and not select.select([source], [], [], _SECONDS_FOR_A_LINE)[0]
        chunk = b"" if is_late else os.read(source, 1 << 16)
        lines = (rest + chunk).splitlines(keepends=True)
        is_complete = is_late or not chunk or lines[-1].endswith((b"\n", b"\r"))
        rest = b"" if is_complete else lines.pop()
        target.write(b"".join(line for line in lines if is_worth_reading(line, level)))
        target.flush()
        if not chunk and not is_late:
            return


if __name__ == "__main__":
    # A scheduler sends it to every process of a job; the command decides when it ends.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        pass_on(0, sys.stderr.buffer, sys.argv[1])

"""Filter of the log lines that TensorFlow's C++ code writes to standard error.

TensorFlow, its compiler and LiteRT write directly to file descriptor 2: CPU
instructions in use, a missing GPU, a created delegate. TF_CPP_MIN_LOG_LEVEL applies
only to some of these lines, and the level that hides them all also hides errors.
Here the descriptor is redirected to a small process that passes on the relevant
lines. It is a separate process so that the last lines before a crash are not lost.
Python's own output does not pass through it.

Run as a script, this file is that process, so it has only small imports.
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
# If the user sets no level: no INFO, and no `_NOISE`.
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

# Warnings and errors of a working program.
_NOISE = re.compile(
    rb"All log messages before absl::InitializeLog\(\) is called"
    # A machine without a GPU, or one whose CUDA_VISIBLE_DEVICES hides it.
    rb"|failed call to cuInit: .*(UNKNOWN ERROR \(303\)|CUDA_ERROR_NO_DEVICE)"
    rb"|TF-TRT Warning: Could not find TensorRT"
    # From parts that are linked into TensorFlow twice.
    rb"|Unable to register cu(FFT|DNN|BLAS) factory"
    rb"|computation placer already registered"
    # A type that nothing here computes in, and some CPUs cannot.
    rb"|oneDNN supports DT_\w+ only on platforms with"
    # From large operands, and from abandoned optimizations.
    rb"|Allocation of \d+ exceeds \d+% of free system memory"
    rb"|layout failed: INVALID_ARGUMENT: Size of values 0 does not match"
    rb"|Error in PredictCost\(\) for the op"
    # Of a damaged image, without its name: our own line has it.
    rb"|jpeg_mem\.cc:\d+\] "
    # From data sets that end or come from Python.
    rb"|Input of GeneratorDatasetOp::Dataset will not be optimized"
    rb"|Local rendezvous is aborting with status: OUT_OF_RANGE: End of sequence"
    rb"|The calling iterator did not fully read the dataset being cached"
    # From the TFLite converter, about its own settings.
    rb"|Ignored (output_format|drop_control_dependency)\."
    rb"|Skipping runtime version metadata in the model"
)
# What the TFLite converter prints of its settings.
_PLAIN_NOISE = re.compile(rb"fully_quantize: \d, inference_type: ")


@contextlib.contextmanager
def filtered() -> Iterator[None]:
    """Filter noise of TensorFlow's C++ code from standard error within a context.

    Enter it before TensorFlow is imported. The user's TF_CPP_MIN_LOG_LEVEL is applied
    strictly, also to lines to which TensorFlow does not apply it.
    """
    level = os.environ.get(_LEVEL_VARIABLE, "")
    os.environ.setdefault(_LEVEL_VARIABLE, _DEFAULT_LEVEL)
    before = sys.stderr
    try:
        # Never closed: a thread that outlives the context may hold it.
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
        # It ends with its input, unless a child process still holds that.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_SECONDS_TO_END)


def _start(level: str) -> subprocess.Popen:
    """Start the process that passes on the relevant lines of its standard input."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, level],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        # Ctrl-C at the terminal must not end it before the command's last lines.
        start_new_session=True,
    )


def _let_python_write_to(file: IO) -> None:
    """Set `file` as standard error of Python, and of absl's log, which keeps its own."""
    from absl import logging

    sys.stderr = file
    logging.get_absl_handler().python_handler.setStream(file)


def is_worth_reading(line: bytes, level: str) -> bool:
    """Tell whether a line should reach the terminal.

    Args:
      line: line that a process wrote to standard error.
      level: the user's TF_CPP_MIN_LOG_LEVEL; empty if not set.
    """
    beginning = _BEGINNING.match(line)
    if beginning is None:
        return not _PLAIN_NOISE.match(line)
    severity = b"IWEF".index(beginning.group(1))
    if level.isdigit():
        return severity >= int(level)
    return severity >= int(_DEFAULT_LEVEL) and not _NOISE.search(line)


def pass_on(source: int, target: BinaryIO, level: str) -> None:
    """Copy the relevant lines until the source ends.

    Args:
      source: file descriptor to read.
      target: file to write to.
      level: see `is_worth_reading`.
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
    # A scheduler sends SIGTERM to every process of a job; the command decides when to end.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        pass_on(0, sys.stderr.buffer, sys.argv[1])

"""Common part of the commands: flags, help, errors of one line, and signals."""

import contextlib
import gc
import io
import logging as python_logging
import math
import os
import re
import select
import signal
import stat
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, NamedTuple, Never, NoReturn

from absl import flags, logging

from efficientdet_tf import __version__, devices
from efficientdet_tf.cli import native_log
from efficientdet_tf.errors import UserError

_WITHOUT_TENSORFLOW = (
    "tensorflow is not installed; without it, there is only predict with a .tflite or .onnx file: "
    "install the package with all it requires"
)


class Command(NamedTuple):
    """Command of the program.

    Attributes:
      name: name of the command, prefix of its messages.
      summary: first line of its help.
      define_flags: function that returns the flags in a separate `FlagValues`, so that
        several commands can be called in one process.
      main: function that runs the command with the parsed flags; raises `UserError`.
      argument: name of the flag that a positional argument sets. Default "", none.
      handles_sigterm: whether `main` itself decides what SIGTERM does. Default False.
    """

    name: str
    summary: str
    define_flags: Callable[[], flags.FlagValues]
    main: Callable[[flags.FlagValues], None]
    argument: str = ""
    handles_sigterm: bool = False


def call(command: Command, arguments: Sequence[str]) -> int:
    """Parse the flags of a command and run it in this process.

    An invalid flag, or a `UserError` of `main`, is reported in one line on standard error.

    Args:
      command: the command to run.
      arguments: arguments of the command line, without the name of the program.

    Returns:
      The exit code: 0, 1 for an invalid flag, or that of the `UserError`.
    """
    values = command.define_flags()
    flags.DEFINE_bool("help", False, "Show this.", short_name="?", flag_values=values)
    flags.DEFINE_bool("version", False, "Show the version of the package.", flag_values=values)
    try:
        # Flags may follow the argument.
        values.set_gnu_getopt()
        rest = values([command.name, *arguments])[1:]
    except flags.Error as error:
        return _fail(command.name, f"{error}; see --help")
    if values.help:
        print(command.summary, _help(values), sep="\n")
        return 0
    if values.version:
        print(__version__)
        return 0
    if nan := next((name for name in values if _is_nan(values[name].value)), None):
        return _fail(command.name, f"flag --{nan}=nan: is not a number; see --help")
    if rest and command.argument:
        values[command.argument].value = rest.pop(0)
    if rest:
        return _fail(command.name, f"unexpected argument {rest[0]!r}; see --help")
    verbosity = logging.get_verbosity()
    try:
        command.main(values)
        sys.stdout.flush()
    except UserError as error:
        return _fail(command.name, error, error.exit_code)
    except ModuleNotFoundError as error:
        if error.name != "tensorflow":
            raise
        return _fail(command.name, _WITHOUT_TENSORFLOW)
    finally:
        # Restored for the next command in this process.
        logging.set_verbosity(verbosity)
    return 0


def _is_nan(value: object) -> bool:
    """Whether the value of a flag is not a number, which no bound of a flag excludes."""
    return isinstance(value, float) and math.isnan(value)


def run(command: Command, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command as a process, and exit.

    Ctrl-C and SIGTERM are reported in one line on standard error, with exit codes 130 and 143,
    after files that are not complete have been removed; a closed pipe on standard output
    (`| head`) ends silently, with 141. TensorFlow's output to standard error is filtered, see
    `native_log`.

    Args:
      command: the command to run.
      arguments: see `call`; None for those of the process. Default None.
    """
    devices.request_memory_growth()
    devices.limit_threads(devices.cpu_quota())
    # Otherwise TensorFlow imports Keras 3, which nothing here uses, and with it pyplot and
    # scikit-learn: a second and 70 MB.
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    # What imports and models make is kept, and searching it for garbage again and again takes a
    # third of an import. The loops of training and detection leave no garbage.
    gc.set_threshold(100_000, 20, 50)
    # Of images that are read all the same, in two raw lines; by its text, to import no Pillow.
    warnings.filterwarnings("ignore", r"Image size \(\d+ pixels\) exceeds limit")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # As on standard error: a file name that is not UTF-8 does not end a command.
        sys.stdout.reconfigure(errors="backslashreplace")
    _log_plain_lines()
    # TensorFlow logs every file that it saves at a lower level.
    logging.set_verbosity(logging.WARNING)
    signals = (signal.SIGINT,) if command.handles_sigterm else (signal.SIGINT, signal.SIGTERM)
    with _quiet_end(command.name, signals), native_log.filtered():
        sys.exit(call(command, sys.argv[1:] if arguments is None else arguments))


def choose(
    name: str, commands: Mapping[str, Command], arguments: Sequence[str]
) -> tuple[Command, Sequence[str]]:
    """Find the command named by the first argument.

    Args:
      name: prefix of messages.
      commands: commands by name.
      arguments: arguments of the command line.

    Returns:
      The command and its arguments; if there is none of that name, one that lists the commands
      or fails, whatever the other arguments are.
    """
    word = arguments[0] if arguments else ""
    if word in commands:
        return commands[word], arguments[1:]
    known = ", ".join(commands)
    is_word = word and not word.startswith("-")

    def refuse(values: flags.FlagValues) -> None:
        given = f"{word!r} is not" if is_word else "the first argument has to be"
        raise UserError(f"{given} one of: {known}; see --help")

    def print_commands(values: flags.FlagValues) -> None:
        print(*(f"{word}: {command.summary}" for word, command in commands.items()), sep="\n")

    def print_version(values: flags.FlagValues) -> None:
        print(__version__)

    answers = dict.fromkeys(("--help", "-help", "-?"), print_commands)
    answers |= dict.fromkeys(("--version", "-version"), print_version)
    return Command(name, "", flags.FlagValues, answers.get(word, refuse)), ()


def require(values: flags.FlagValues, *names: str) -> None:
    """Require a value of each flag.

    Raises:
      UserError: if a flag has no value; it names the first, and its help.
    """
    for name in names:
        if not values[name].value:
            raise UserError(f"--{name} is missing: {values[name].help}")


def _help(values: flags.FlagValues) -> str:
    """Format the help of the flags, one paragraph each."""
    text = values.get_help(include_special_flags=False)
    # Without the names of the declaring modules.
    return re.sub(r"(?m)^\S.*:\n", "", text)


def _log_plain_lines() -> None:
    """Write warnings as lines of their own, without date, thread and source file."""
    # Its flags are not used; unparsed, they are warned of.
    flags.FLAGS.mark_as_parsed()
    logging.use_absl_handler()
    logging.get_absl_handler().setFormatter(_PlainFormatter())


class _PlainFormatter(python_logging.Formatter):
    """Formatter of lines such as "warning: ..."."""

    def format(self, record: python_logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {record.getMessage()}"


@contextlib.contextmanager
def _quiet_end(name: str, signals: Sequence[signal.Signals]) -> Iterator[None]:
    """Exit without a traceback on signals or a closed standard output within a context."""
    interrupted: int | None = None

    def interrupt(number: int, frame: types.FrameType | None) -> Never:
        nonlocal interrupted
        interrupted = number
        # A second one ends a clean-up that hangs.
        signal.signal(number, signal.SIG_DFL)
        raise KeyboardInterrupt

    for number in signals:
        # Not where the signal is ignored, e.g. in the background of a shell script.
        if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
            signal.signal(number, interrupt)
    try:
        yield
    except SystemExit:
        try:
            _flush_output()
        except BrokenPipeError:
            _drop_output()
        raise
    except BrokenPipeError:
        if not _has_no_reader(sys.stdout):
            raise
        _drop_output()
        sys.exit(128 + signal.SIGPIPE)
    except BaseException as error:
        # An interrupted import may raise any other error.
        if interrupted or isinstance(error, KeyboardInterrupt):
            stopped_by = signal.Signals(interrupted or signal.SIGINT)
            sys.exit(_fail(name, f"stopped by {stopped_by.name}", 128 + stopped_by))
        raise


def _flush_output() -> None:
    # Standard output may be closed from the start.
    if sys.stdout is not None:
        sys.stdout.flush()


def _drop_output() -> None:
    """Discard buffered standard output, which would raise an error at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _has_no_reader(file: IO | None) -> bool:
    """Tell whether a file is a pipe whose reader is closed."""
    if file is None or not stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
        return False
    poll = select.poll()
    poll.register(file.fileno(), 0)
    return bool(poll.poll(0))


def _fail(name: str, message: object, exit_code: int = 1) -> int:
    print(f"{name}: {message}", file=sys.stderr)
    return exit_code

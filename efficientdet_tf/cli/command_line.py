"""What the commands have in common: flags, help, errors of one line, and signals."""

import contextlib
import os
import select
import signal
import stat
import sys
from collections.abc import Callable, Iterator

from absl import app, flags, logging

from efficientdet_tf import devices
from efficientdet_tf.cli import native_log
from efficientdet_tf.errors import UserError


def run(name: str, main: Callable[[], None]) -> None:
    """Parses the flags, runs a command, and exits.

    An error of the user, in a flag or raised by `main` as `UserError`, is one
    line on standard error and its exit code, 1. So is Ctrl-C, with 130; a reader of
    standard output that went away (`| head`) is no line at all, and 141. `--help`
    lists the flags of the module that defines `main`, however the command was started.

    Args:
      name: what messages begin with.
      main: the command; reads `absl.flags.FLAGS`. What TensorFlow writes to standard
        error meanwhile is filtered, see `native_log`.
    """
    devices.request_memory_growth()
    for flag in flags.FLAGS.flags_by_module_dict().get(main.__module__, []):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)

    def parse(argv: list[str]) -> list[str]:
        try:
            return flags.FLAGS(argv)
        except flags.Error as error:
            return _fail(name, f"{error}; see --help")

    def checked(argv: list[str]) -> None:
        if len(argv) > 1:
            _fail(name, f"unexpected argument {argv[1]!r}; see --help")
        # TensorFlow reports every file that it saves; our warnings are worth reading.
        logging.set_verbosity(logging.WARNING)
        with native_log.filtered():
            try:
                main()
                _flush_output()
            except UserError as error:
                _fail(name, error, error.exit_code)

    with _quiet_end(name):
        app.run(checked, flags_parser=parse)


@contextlib.contextmanager
def _quiet_end(name: str) -> Iterator[None]:
    """A context that ends by Ctrl-C or a closed standard output without a traceback."""
    interrupted = False

    def interrupt(number, frame):
        nonlocal interrupted
        interrupted = True
        # The next one ends whatever cleaning up may hang.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        raise KeyboardInterrupt

    # Not where the signal is ignored, e.g. in the background of a shell script.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
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
        # A module that is interrupted while it is imported may turn that into any error.
        if interrupted or isinstance(error, KeyboardInterrupt):
            _fail(name, "stopped by SIGINT", 128 + signal.SIGINT)
        raise


def _flush_output() -> None:
    # Standard output may be closed from the start.
    if sys.stdout is not None:
        sys.stdout.flush()


def _drop_output() -> None:
    """Sends nowhere what standard output holds, instead of an error at the very end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _has_no_reader(file) -> bool:
    """Whether a file is a pipe that nobody reads any more."""
    if file is None or not stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
        return False
    poll = select.poll()
    poll.register(file.fileno(), 0)
    return bool(poll.poll(0))


def _fail(name: str, message: object, exit_code: int = 1) -> None:
    print(f"{name}: {message}", file=sys.stderr)
    sys.exit(exit_code)

"""What the commands have in common: flags, help, and errors of one line."""

import os
import sys
from collections.abc import Callable

from absl import app, flags, logging

from efficientdet_tf import devices
from efficientdet_tf.errors import UserError


def run(name: str, main: Callable[[], None], tensorflow_log_level: str = "3") -> None:
    """Parses the flags, runs a command, and exits.

    An error of the user, in a flag or raised by `main` as `UserError`, is one
    line on standard error and its exit code, 1. `--help` lists the flags of the
    module that defines `main`, however the command was started.

    Args:
      name: what messages begin with.
      main: the command; reads `absl.flags.FLAGS`.
      tensorflow_log_level: from "0", all, to "3", none of what TensorFlow writes
        to standard error by itself: on machines without a GPU even an error. Its
        failures are raised as well. An environment variable
        TF_CPP_MIN_LOG_LEVEL wins. Heard only when TensorFlow is imported later.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", tensorflow_log_level)
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
        try:
            main()
        except UserError as error:
            _fail(name, error, error.exit_code)

    app.run(checked, flags_parser=parse)


def _fail(name: str, message: object, exit_code: int = 1) -> None:
    print(f"{name}: {message}", file=sys.stderr)
    sys.exit(exit_code)

"""Command line: prepare the training images of other processes, as a tf.data service."""

import signal
import socket
import threading

from absl import flags

from efficientdet_tf.cli import command_line
from efficientdet_tf.errors import UserError

_PORT = 5050


def define_flags() -> flags.FlagValues:
    """Declare the flags of the command."""
    values = flags.FlagValues()
    flags.DEFINE_integer(
        "port",
        None,
        f"Port of the dispatcher, by default {_PORT}; with --dispatcher that of the worker, by "
        "default any. 0 is any.",
        lower_bound=0,
        upper_bound=65535,
        flag_values=values,
    )
    flags.DEFINE_string(
        "dispatcher",
        None,
        "Address of a dispatcher elsewhere, e.g. grpc://10.0.0.1:5050, to add a worker to; without "
        "it a dispatcher is started, with a worker.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "host",
        None,
        "Name or address at which trainings reach this machine; default: its host name.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "state_dir",
        None,
        "Folder in which the dispatcher keeps its state: started again with the same flags, it "
        "resumes, and the trainings that waited with it.",
        flag_values=values,
    )
    return values


def serve(values: flags.FlagValues) -> None:
    """Start a dispatcher or a worker, and run until it is stopped.

    Raises:
      UserError: if a port or an address cannot be used.
    """
    if values.state_dir and values.dispatcher:
        raise UserError("--state_dir: only a dispatcher has a state; leave it out, or --dispatcher")
    port = values.port
    if port is None:
        port = 0 if values.dispatcher else _PORT
    if values.state_dir and not port:
        raise UserError("--state_dir: trainings find a dispatcher again at a fixed --port only")
    # Imported here, so that --help and flag errors are fast.
    from efficientdet_tf.data import service

    host = values.host or _own_name()
    # Kept, as they end when nothing refers to them.
    address, _servers = service.start(port, values.dispatcher, host, values.state_dir)
    if values.dispatcher:
        print(f"a worker of {address}, reached as {host}", flush=True)
    else:
        print(
            f"dispatcher at {address}, with one worker\n"
            f"more workers: python -m efficientdet_tf data serve --dispatcher={address}\n"
            f"trainings: python train.py ... --set data.service={address}",
            flush=True,
        )
    # Ctrl-C ends the process at once: a worker whose dispatcher is gone would not end by itself.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Event().wait()


def _own_name() -> str:
    name = socket.gethostname()
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        return "localhost"
    return name


COMMAND = command_line.Command(
    "data",
    "Read, decode and augment the images of trainings elsewhere (tf.data service).",
    define_flags,
    serve,
    handles_sigterm=True,
)

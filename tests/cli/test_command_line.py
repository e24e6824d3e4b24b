"""Exit of every command on Ctrl-C, on SIGTERM and on a closed pipe."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import PIL.Image
import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]

# A command that prints a line when its main function starts.
COMMAND = """
import sys, time
from absl import flags
from efficientdet_tf.cli import command_line
def main(values):
    print("started", flush=True)
    {body}
command_line.run(command_line.Command("demo", "", flags.FlagValues, main))
"""


def answer_interrupts():
    """Restore Python's SIGINT handler, which a shell disables for background commands."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(body, **options):
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND.format(body=body)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **({"preexec_fn": answer_interrupts} | options),
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "body",
    [
        "time.sleep(60)",
        # As in modules whose import is interrupted.
        """
    try:
        time.sleep(60)
    except KeyboardInterrupt as error:
        raise ImportError("no module") from error""",
    ],
)
def test_an_interrupt_is_one_line(body, number):
    process = start(body)
    assert process.stdout.readline() == "started\n"
    process.send_signal(number)
    assert process.communicate() == ("", f"demo: stopped by {number.name}\n")
    assert process.returncode == 128 + number


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_no_file_that_is_not_complete(tmp_path, number):
    path = tmp_path / "detections.json"
    path.write_text("earlier")
    process = start(f"""
    from efficientdet_tf.files import replacing
    with replacing({str(path)!r}) as partial:
        partial.write_text("half")
        print("writing", flush=True)
        time.sleep(60)""")
    assert [process.stdout.readline() for _ in range(2)] == ["started\n", "writing\n"]
    assert len(os.listdir(tmp_path)) == 2
    process.send_signal(number)
    assert process.communicate() == ("", f"demo: stopped by {number.name}\n")
    assert os.listdir(tmp_path) == ["detections.json"] and path.read_text() == "earlier"


def test_a_name_that_is_not_utf8_can_be_printed():
    process = start(r"print('caf\udce9')", env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"})
    assert process.communicate() == ("started\ncaf\\udce9\n", "")
    assert process.returncode == 0


def test_a_second_interrupt_ends_what_cleans_up_for_too_long():
    process = start(
        """
    try:
        # Not before: an interrupt between "started" and here would clean up nothing.
        print("waiting", flush=True)
        time.sleep(60)
    finally:
        print("cleaning", flush=True)
        time.sleep(60)"""
    )
    assert process.stdout.readline() == "started\n"
    for line in ("waiting\n", "cleaning\n"):
        assert process.stdout.readline() == line
        process.send_signal(signal.SIGINT)
    assert process.communicate() == ("", "")
    assert process.returncode == -signal.SIGINT


def test_an_ignored_interrupt_stays_ignored():
    """Shells start background commands of a script this way."""
    process = start(
        "input()",
        stdin=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate("\n") == ("", "")
    assert process.returncode == 0


@pytest.mark.skipif(not pathlib.Path("/proc").is_dir(), reason="finds the moment in /proc")
def test_an_interrupt_while_tensorflow_is_imported(tmp_path):
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "efficientdet_tf", "train", f"--model_dir={tmp_path}"),
            *("--train_data=digits", "--val_data=digits"),
        ],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=answer_interrupts,
        text=True,
    )
    maps = pathlib.Path(f"/proc/{process.pid}/maps")
    while "libtensorflow" not in maps.read_text():
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    assert process.communicate() == ("", "train: stopped by SIGINT\n")
    assert process.returncode == 130


@pytest.mark.parametrize(
    ("body", "exit_code"),
    [
        ("print('line\\n' * 100_000)", 128 + signal.SIGPIPE),
        ("print('line')", 128 + signal.SIGPIPE),
        # The command's own exit code is kept.
        ("pass", 0),
        ("sys.exit(3)", 3),
        ("sys.stdout.write('line'); sys.exit(3)", 3),
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_pipe_is_no_traceback(body, exit_code, unbuffered):
    if unbuffered and "write" in body:
        # No buffered output remains.
        exit_code = 128 + signal.SIGPIPE
    process = start(
        f"sys.stdin.read()\n    {body}",
        stdin=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    assert process.stdout.readline() == "started\n"
    process.stdout.close()
    process.stdin.close()
    assert process.stderr.read() == ""
    assert process.wait() == exit_code


def test_another_broken_pipe_keeps_its_traceback():
    process = start("raise BrokenPipeError('of a server')")
    _, err = process.communicate()
    assert process.returncode == 1
    assert err.endswith("BrokenPipeError: of a server\n")


def test_a_large_image_is_no_warning(tmp_path):
    path = tmp_path / "large.png"
    PIL.Image.new("1", (10_000, 10_000)).save(path)
    process = start(f"import PIL.Image; PIL.Image.open({str(path)!r})")
    assert process.communicate() == ("started\n", "")
    assert process.returncode == 0


def test_a_warning_is_a_plain_line():
    process = start("from absl import logging; logging.warning('%s: 1 problem', 'train.json')")
    out, err = process.communicate()
    assert (out, err) == ("started\n", "warning: train.json: 1 problem\n")

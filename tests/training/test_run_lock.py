"""Lock of a run directory."""

import json
import os
import socket
import subprocess
import sys

import pytest

from efficientdet_tf.training import run_lock
from efficientdet_tf.training.run_lock import RunInUse, RunLock

# Holds the lock until killed.
HOLDER = """
import pathlib, sys
from efficientdet_tf.training.run_lock import RunLock
with RunLock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_gets_one_line_and_a_killed_one_leaves_no_lock(tmp_path, capsys):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "held\n"
    since = json.loads((tmp_path / "run.lock").read_text())["since"]
    who = f"process {holder.pid} on {socket.gethostname()} since {since}"
    with pytest.raises(RunInUse) as error, RunLock(tmp_path):
        pass
    assert error.value.exit_code == 1
    assert str(error.value) == (
        f"{tmp_path}: is in use by {who}; wait until it ends, or use another --model_dir"
    )
    holder.kill()
    holder.communicate()
    assert capsys.readouterr().out == ""
    with RunLock(tmp_path):
        assert capsys.readouterr().out == f"{tmp_path}: left by {who}, which is gone; resuming\n"
        assert json.loads((tmp_path / "run.lock").read_text())["process"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_the_lock_is_released_in_the_same_process(tmp_path, capsys):
    folder = tmp_path / "a" / "run"
    for _ in range(2):
        with RunLock(folder):
            with pytest.raises(RunInUse), RunLock(folder):
                pass
            (folder / "config.yaml").touch()
    assert os.listdir(folder) == ["config.yaml"]
    assert capsys.readouterr().out == ""


def test_an_empty_folder_is_removed_again(tmp_path):
    with pytest.raises(ValueError), RunLock(tmp_path / "run"):
        raise ValueError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_alive", [True, False])
def test_another_host_counts_as_gone_when_it_no_longer_renews_the_file(
    tmp_path, monkeypatch, capsys, is_alive
):
    """Without locks across hosts: the file is not locked here."""
    monkeypatch.setattr(run_lock, "GONE", 3.0)
    monkeypatch.setattr(run_lock, "RENEWAL", 0.2)
    file = tmp_path / "run.lock"
    file.write_text(json.dumps({"host": "elsewhere", "process": 7, "since": "then"}))
    other = RunLock(tmp_path)
    if is_alive:
        run_lock.threading.Thread(target=other._renew, daemon=True).start()
        with pytest.raises(RunInUse, match=": is in use by process 7 on elsewhere since then; "):
            RunLock(tmp_path).__enter__()
        other._released.set()
        return
    with RunLock(tmp_path):
        assert capsys.readouterr().out == (
            f"{tmp_path}: left by process 7 on elsewhere since then, which is gone; resuming\n"
        )


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"host": "a"}'])
def test_a_damaged_file_has_no_holder(tmp_path, capsys, content):
    (tmp_path / "run.lock").write_text(content)
    with RunLock(tmp_path):
        assert capsys.readouterr().out == ""

"""`efficientdet-data split`: what it prints, and its errors."""

import pytest

import commands as program


def split(*arguments):
    return program.call("-m", "efficientdet_tf", "data", "split", *arguments)


def test_prints_the_format_and_the_parts(shared_data, tmp_path):
    path = shared_data / "bccd"
    done = split(f"--data={path}", f"--output={tmp_path}/out", "--split=val", "--val_fraction=0.25")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"{path}: format voc" and lines[-1] == f"Written to {tmp_path}/out as voc"
    [train, val] = [line for line in lines if line.startswith(("train: ", "val: "))]
    counts = [[int(word) for word in line.split() if word.isdigit()] for line in (train, val)]
    assert [sum(pair) for pair in zip(*counts)] == [87, 1137]
    assert abs(counts[1][0] - 0.25 * 87) < 2
    [shares] = [line for line in lines if line.startswith("objects in val: ")]
    percents = [int(word.rstrip("%")) for word in shares.split() if word.endswith("%")]
    assert all(18 <= percent <= 32 for percent in percents) and len(percents) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output=x"], "--data is missing: Data set: a path, or 'digits' (built in)."),
        (["--data=digits"], "--output is missing: Folder to write to."),
        (["--data=digits", "--output=x", "--val_fraction=1"], "--val_fraction: 1 is not between "),
        (["--data=no", "--output=x"], "no: no such file or folder"),
        (["--data=digits", "--output=x", "--seed=-1"], "flag --seed=-1: -1 is not a non-negative"),
    ],
)
def test_complains_in_one_line(arguments, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    done = split(*arguments)
    [line] = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (1, "")
    assert line.startswith(f"data: {message}")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    done = split("--data=digits", f"--output={tmp_path}/file/out", "--split=val")
    assert done.returncode == 1
    assert done.stderr == f"data: --output: {tmp_path}/file/out: Not a directory\n"

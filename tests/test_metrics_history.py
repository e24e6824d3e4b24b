"""Reading of metrics.csv."""

import pytest

from efficientdet_tf.metrics_history import (
    COLUMNS,
    History,
    evaluations_without_gain,
    read_history,
)
from efficientdet_tf.training.callbacks import MetricsFile


def test_empty_cells_are_left_out(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,loss,AP\n1,2.5,\n2,1.5,0.25\n3,1.5,nan\n")
    [first, second, third], num_unreadable = read_history(path)
    assert num_unreadable == 0
    assert first == {"epoch": 1, "loss": 2.5}
    assert second == {"epoch": 2, "loss": 1.5, "AP": 0.25}
    # Without any object AP is NaN, but it was measured.
    assert third["AP"] != third["AP"]


def test_damaged_lines_of_a_crash(tmp_path):
    path = tmp_path / "metrics.csv"
    # Epoch 2 was trained again, and four rows are damaged; an empty row does not count.
    path.write_bytes(
        b"epoch,loss,AP\n1,3,0.1\n2,2,0.2\n2,1,0.3\n3,0.5\n\n,4,5\nx,1,1\n"
        b"\0\0\0\0\n4,1,0.5\n5,1,0.6"
    )
    assert read_history(path) == History(
        [
            {"epoch": 1, "loss": 3, "AP": 0.1},
            {"epoch": 2, "loss": 1, "AP": 0.3},
            {"epoch": 4, "loss": 1, "AP": 0.5},
        ],
        num_unreadable=5,
    )


def test_a_lost_header_is_one_damaged_line(tmp_path):
    path = tmp_path / "metrics.csv"
    rows = "".join(f"{epoch},{',' * (len(COLUMNS) - 5)}0.5,0.6,,\n" for epoch in (1, 2))
    path.write_bytes(b"\0" * 40 + b"\n" + rows.encode())
    history = read_history(path)
    assert [row["epoch"] for row in history.epochs] == [1, 2]
    assert history.epochs[0] == {"epoch": 1, "AP": 0.5, "AP50": 0.6}
    assert history.num_unreadable == 1


def test_a_damaged_file_is_repaired_when_a_run_is_resumed(tmp_path, capsys):
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"epoch,loss,AP\n1,2.5,0.25\n2,1.5,\n3,1\n\0\0\0")
    MetricsFile(path, epochs_done=1)
    assert capsys.readouterr().out == f"{path}: 2 damaged lines removed\n"
    assert read_history(path) == History([{"epoch": 1, "loss": 2.5, "AP": 0.25}], 0)


def test_without_a_file_there_is_no_history(tmp_path):
    assert read_history(tmp_path / "metrics.csv") == History([], 0)


@pytest.mark.parametrize(
    ("column", "count"),
    [
        ([], 0),
        ([None, None], 0),
        ([0.1, 0.2], 0),
        ([0.2, 0.2], 1),
        ([0.3, 0.1, None, 0.2], 2),
        ([0.3, 0.1, 0.4], 0),
        ([float("nan"), 0.1, float("nan")], 1),
        ([float("nan")] * 3, 3),
        ([0.0, 0.0], 1),
    ],
)
def test_evaluations_without_gain(column, count):
    history = [{} if ap is None else {"AP": ap} for ap in column]
    assert evaluations_without_gain(history) == count

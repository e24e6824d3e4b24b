"""metrics.csv, read back."""

import pytest

from efficientdet_tf.training.history import evaluations_without_gain, read_history


def test_empty_cells_are_left_out(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,loss,AP\n1,2.5,\n2,1.5,0.25\n3,1.5,nan\n")
    first, second, third = read_history(path)
    assert first == {"epoch": 1, "loss": 2.5}
    assert second == {"epoch": 2, "loss": 1.5, "AP": 0.25}
    # Without any object AP is no number, but it was measured.
    assert third["AP"] != third["AP"]


def test_what_a_crash_leaves(tmp_path):
    path = tmp_path / "metrics.csv"
    # Epoch 2 was trained again, and a row was cut off.
    path.write_text("epoch,loss,AP\n1,3,0.1\n2,2,0.2\n2,1,0.3\n3,0.5\n\n,4,5\nx,1,1\n")
    assert read_history(path) == [
        {"epoch": 1, "loss": 3, "AP": 0.1},
        {"epoch": 2, "loss": 1, "AP": 0.3},
        {"epoch": 3, "loss": 0.5},
    ]


def test_without_a_file_there_is_no_history(tmp_path):
    assert read_history(tmp_path / "metrics.csv") == []


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

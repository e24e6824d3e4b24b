"""Mutated files are refused by one line, or read: a sample of `benchmarks.fuzzing`."""

import numpy as np
import pytest

from benchmarks import fuzzing


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    return fuzzing.write_targets(tmp_path_factory.mktemp("fuzzing") / "data")


@pytest.mark.parametrize(
    ("reader", "inputs"),
    [
        *(("coco", 150), ("voc", 150), ("yolo", 150), ("csv", 150), ("labelme", 150)),
        *(("cvat", 150), ("tf_csv", 150), ("tfrecord", 20), ("image", 40)),
    ],
)
def test_no_mutated_file_makes_a_reader_fail(targets, reader, inputs):
    found = fuzzing.fuzz(targets[reader], inputs, seed=1)
    assert found.failures == []
    assert found.loaded + found.refused == inputs


def test_a_failing_reader_is_found(targets, tmp_path, monkeypatch):
    def load(*args, **kwargs):
        raise KeyError("bbox")

    monkeypatch.setattr(fuzzing.data, "load", load)
    found = fuzzing.fuzz(targets["coco"], 2, seed=3, output=tmp_path)
    assert found.failures == [f"input {i} of seed 3: KeyError: 'bbox'" for i in range(2)]
    # The inputs are kept, and the data set is as before.
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"3_{i}_annotations.json" for i in range(2)
    ]
    monkeypatch.undo()
    assert len(fuzzing.data.load(str(targets["coco"].path)).records) == 5


def test_mutations_change_nearly_every_file():
    random = np.random.default_rng(0)
    content = b'{"bbox": [1, 2.5, 3, 4], "id": 17}'
    assert sum(fuzzing.mutate(content, random) != content for _ in range(100)) > 95
    assert isinstance(fuzzing.mutate(b"", random), bytes)

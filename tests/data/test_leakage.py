"""Images shared by training and validation set are found by their content."""

import numpy as np
import pytest

from efficientdet_tf.data.leakage import shared_images, warn_of_shared_images
from efficientdet_tf.data.records import DetectionData, LabelMap, Record


def data_of(images: list, source: str = "some.json") -> DetectionData:
    records = [
        Record(
            image_id=number,
            image=image,
            height=8,
            width=8,
            boxes=np.zeros((0, 4), np.float32),
            classes=np.zeros(0, np.int32),
            is_crowd=np.zeros(0, bool),
            area=np.zeros(0, np.float32),
            name=image if isinstance(image, str) else f"record {number}",
        )
        for number, image in enumerate(images)
    ]
    return DetectionData(records, LabelMap((1,), ("thing",)), source=source)


@pytest.fixture
def write(tmp_path):
    """Write files of random bytes that differ at the given positions."""
    content = np.random.default_rng(0).integers(256, size=50_000, dtype=np.uint8)

    def write_one(name: str, *changed: int, size: int = 50_000) -> str:
        changed_content = content[:size].copy()
        changed_content[list(changed)] += 1
        (tmp_path / name).write_bytes(changed_content.tobytes())
        return str(tmp_path / name)

    return write_one


def test_equal_content_is_found_whatever_the_name(write):
    train = data_of([write("a"), write("b", 0), write("c", size=100), write("d", 15_000)])
    others = [write("e", 25_000), write("f", 49_999), write("g", 15_001), write("h", size=99)]
    val = data_of([*others, write("z", 15_000), write("y", size=100), write("x")])
    shared = shared_images(train, val)
    names = [(trained.name[-1], measured.name[-1]) for trained, measured in shared]
    assert names == [("d", "z"), ("c", "y"), ("a", "x")]
    assert shared_images(train, data_of(others)) == []


def test_files_bytes_and_equal_paths_are_compared(write, tmp_path):
    first, second = write("a"), write("b", 7)
    encoded = (tmp_path / "b").read_bytes()
    train = data_of([first, encoded])
    val = data_of([second, first, encoded, encoded[:-1], str(tmp_path / "gone")])
    names = [(trained.name, measured.name) for trained, measured in shared_images(train, val)]
    assert names == [("record 1", second), (first, first), ("record 1", "record 2")]
    # Not read at all.
    (tmp_path / "a").unlink()
    assert len(shared_images(train, val)) == 3


def test_one_line_warns(write, warnings_of):
    train, val = data_of([write("a"), write("b", 1)]), data_of([write("c"), write("d", 2)], "val")
    warn_of_shared_images(train, val)
    warn_of_shared_images(train, data_of([write("d", 2)]))
    warn_of_shared_images(train, train)
    a, c = train.records[0].name, val.records[0].name
    assert warnings_of() == [
        f"val: 1 of its 2 images are also in the training set, e.g. {c}, which is {a} there; the "
        "metrics will be too good",
        f"some.json: 2 of its 2 images are also in the training set, e.g. {a}; the metrics will "
        "be too good",
    ]

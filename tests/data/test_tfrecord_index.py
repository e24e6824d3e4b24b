"""Index of TFRecord files: images that are read on demand."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from efficientdet_tf import data
from efficientdet_tf.config import Config
from efficientdet_tf.data import DataError, digits
from efficientdet_tf.data.image_sources import read_encoded
from efficientdet_tf.data.pipeline import training_dataset
from efficientdet_tf.data.reading import ReadFailures
from efficientdet_tf.data.record_images import why_unreadable
from efficientdet_tf.data.tfrecord import write_tfrecord
from efficientdet_tf.data.tfrecord_reading import encoded_images


@pytest.fixture
def shards(tmp_path, monkeypatch):
    """Three shards of five digits, and an empty cache."""
    monkeypatch.setenv("EFFICIENTDET_CACHE", str(tmp_path / "cache"))
    train = digits.load("train", num_images=5)
    return write_tfrecord(train, str(tmp_path / "set" / "train.tfrecord"), shards=3)


def assert_same_records(ones, others):
    for one, other in zip(ones, others, strict=True):
        assert (one.image_id, one.name, one.image) == (other.image_id, other.name, other.image)
        assert (one.height, one.width) == (other.height, other.width)
        for name in ("boxes", "classes", "is_crowd", "is_difficult", "area"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_images_are_found_in_their_files(shards):
    content = {file: Path(file).read_bytes() for file in shards}
    digits_by_id = {r.image_id: r.image for r in digits.load("train", num_images=5).records}
    for record in data.load(str(Path(shards[0]).parent)).records:
        image = record.image
        encoded = content[image.file][image.offset : image.offset + image.length]
        assert encoded == read_encoded(image) == digits_by_id[record.image_id]
        assert encoded_images(image.file, image.record_offset, 1).numpy().tolist() == [encoded]
        assert record.name == f"{image.file}: record {image.record_number}"
        assert image.modified == Path(image.file).stat().st_mtime_ns


def test_consecutive_records_are_read_at_once(shards):
    images = [r.image for r in data.load(str(Path(shards[0]).parent)).records]
    second = [image for image in images if image.file == shards[1]][:2]
    read = encoded_images(shards[1], second[0].record_offset, 2).numpy().tolist()
    assert read == [read_encoded(image) for image in second]


def test_records_after_the_end_and_damaged_ones_are_refused(shards):
    images = [r.image for r in data.load(str(Path(shards[0]).parent)).records]
    last = [image for image in images if image.file == shards[0]][-1]
    with pytest.raises(tf.errors.OpError, match="Dataset was empty"):
        encoded_images(shards[0], last.record_offset, 2)
    content = bytearray(Path(shards[0]).read_bytes())
    content[last.offset] ^= 1
    Path(shards[0]).write_bytes(content)
    with pytest.raises(tf.errors.DataLossError, match="corrupted record"):
        encoded_images(shards[0], last.record_offset, 1)


def test_an_unchanged_file_is_indexed_once(shards):
    folder = str(Path(shards[0]).parent)
    before = data.load(folder).records
    first = Path(shards[0])
    times, content = first.stat(), first.read_bytes()
    # The annotations are no longer readable.
    first.write_bytes(bytes(len(content)))
    os.utime(first, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert_same_records(before, data.load(folder).records)
    os.utime(first, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    with pytest.raises(DataError) as error:
        data.load(folder)
    assert str(error.value) == f"{first}: damaged, or not a TFRecord file of tf.train.Example"


def test_a_damaged_index_is_made_again(shards, tmp_path):
    folder = str(Path(shards[0]).parent)
    before = data.load(folder).records
    indices = list((tmp_path / "cache" / "tfrecord_indices").iterdir())
    assert len(indices) == 3
    for index, content in zip(indices, (b"", b"no index", indices[2].read_bytes()[:900])):
        index.write_bytes(content)
    assert_same_records(before, data.load(folder).records)


def test_addresses_are_read_as_paths_are(shards):
    """TensorFlow's file system in memory, which is named like one of an object store."""
    folder = Path(shards[0]).parent
    tf.io.gfile.makedirs("ram://bucket/set")
    for file in [*shards, str(folder / "label_map.json")]:
        tf.io.gfile.copy(file, f"ram://bucket/set/{Path(file).name}", overwrite=True)
    local = data.load(str(folder))
    config = Config.for_model("efficientdet-lite0").override({"model.image_size": 128})
    for path in ("ram://bucket/set", "ram://bucket/set/train-*.tfrecord"):
        remote = data.load(path)
        assert remote.problems == () and remote.label_map == local.label_map
        names = [record.name.replace("ram://bucket/set", str(folder)) for record in remote.records]
        assert names == [record.name for record in local.records]
        batches = [next(iter(training_dataset(d, config, 4, seed=3))) for d in (local, remote)]
        np.testing.assert_array_equal(batches[0][0], batches[1][0])
    with pytest.raises(DataError) as error:
        data.load("ram://bucket/none.tfrecord")
    assert str(error.value) == "ram://bucket/none.tfrecord: no such TFRecord file"
    with pytest.raises(DataError) as error:
        data.load("nosuch://bucket/set/train.tfrecord")
    assert str(error.value) == (
        "nosuch://bucket/set/train.tfrecord: TensorFlow cannot read nosuch:// by itself; mount it "
        "as a folder, or copy the files to a disk or to gs://"
    )


def test_images_from_files_give_the_batches_of_images_in_memory(shards):
    loaded = data.load(str(Path(shards[0]).parent))
    config = Config.for_model("efficientdet-lite0").override({"model.image_size": 128})
    kept = [dataclasses.replace(r, image=read_encoded(r.image)) for r in loaded.records]
    # Among images in files, there may be others.
    mixed = [loaded.records[0], *kept[1:]]
    expected, *others = (
        list(training_dataset(dataclasses.replace(loaded, records=r), config, 2, seed=1).take(3))
        for r in (kept, loaded.records, mixed)
    )
    for found in others:
        for (images, targets), (same, same_targets) in zip(expected, found, strict=True):
            np.testing.assert_array_equal(images, same)
            for name in targets:
                np.testing.assert_array_equal(targets[name], same_targets[name])


def test_an_image_whose_file_became_shorter_is_skipped_and_named(shards):
    loaded = data.load(str(Path(shards[0]).parent))
    last = max((r for r in loaded.records if r.image.file == shards[0]), key=lambda r: r.image)
    Path(shards[0]).write_bytes(Path(shards[0]).read_bytes()[: last.image.offset + 10])
    assert why_unreadable(last) == "the file is shorter than when it was indexed"
    config = Config.for_model("efficientdet-lite0").override({"model.image_size": 128})
    failures = ReadFailures()
    for _ in training_dataset(loaded, config, 2, failures=failures).take(4):
        pass
    assert failures.gaps and not failures.has_ended
    Path(shards[0]).unlink()
    assert why_unreadable(last) == "No such file or directory"

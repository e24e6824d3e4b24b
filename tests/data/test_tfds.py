"""TensorFlow Datasets reader: a tiny data set that is prepared here, without the network."""

import numpy as np
import pytest

from efficientdet_tf import data
from efficientdet_tf.data import DataError, conversion

tfds = pytest.importorskip("tensorflow_datasets")


class TinyBoxes(tfds.core.GeneratorBasedBuilder):
    """Three images for training and two for validation, with ids from 10."""

    # Not that of the test: the package looks for files beside modules of packages.
    __module__ = "tiny"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features
        objects = {
            "bbox": features.BBoxFeature(),
            "label": features.ClassLabel(names=["dog", "cat"]),
            "is_crowd": np.bool_,
            "is_difficult": np.bool_,
            "area": np.int64,
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=features.FeaturesDict(
                {
                    "image": features.Image(encoding_format="png"),
                    "image/id": np.int64,
                    "things": features.Sequence(objects),
                }
            ),
        )

    def _split_generators(self, _):
        return {"train": self._generate_examples(3), "validation": self._generate_examples(2)}

    def _generate_examples(self, count):
        for i in range(count):
            box = {
                **{"bbox": tfds.features.BBox(0.25, 0.125, 0.75, 0.5), "label": 1, "area": 7},
                **{"is_crowd": i == 1, "is_difficult": i == 2},
            }
            image = np.zeros((48, 64, 3), np.uint8)
            yield i, {"image": image, "image/id": 10 + i, "things": [box] * i}


class TinyLabels(tfds.testing.DummyDataset):
    """A data set without images."""

    __module__ = "tiny"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    for builder in (TinyBoxes, TinyLabels):
        builder(data_dir=folder).download_and_prepare()
    return folder


@pytest.fixture(autouse=True)
def _data_folder(folder, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder))


def test_reads_the_splits():
    train, val = (data.load("tfds:tiny_boxes", split=split) for split in ("train", "val"))
    assert data.format_name("tfds:tiny_boxes") == "tfds"
    assert data.lacks_validation("tfds:tiny_boxes") == ""
    assert train.label_map == val.label_map
    assert (train.label_map.ids, train.label_map.names) == ((0, 1), ("dog", "cat"))
    records = {record.image_id: record for record in train.records}
    assert sorted(records) == [10, 11, 12] and len(val) == 2
    assert [len(records[i].boxes) for i in (10, 11, 12)] == [0, 1, 2]
    np.testing.assert_array_equal(records[11].boxes, [[12, 8, 36, 32]])
    assert records[11].is_crowd.tolist() == [True] and records[11].area.tolist() == [7]
    assert records[12].is_difficult.tolist() == [True, True]
    assert records[12].classes.tolist() == [1, 1] and (records[12].height, train.problems) == (
        48,
        (),
    )


def test_is_converted(tmp_path):
    [train, val] = conversion.convert("tfds:tiny_boxes", "coco", tmp_path / "o", ["train", "val"])
    assert train.lost == val.lost == []
    loaded = conversion.load(str(tmp_path / "o" / "train.json"), "train")
    assert sorted(record.image_id for record in loaded.records) == [10, 11, 12]


@pytest.mark.parametrize(
    ("path", "split", "message"),
    [
        ("tfds:tiny_boxes", "test", "has no split test, only train, validation"),
        ("tfds:tiny_labels", "train", "has no image with a sequence of objects with boxes"),
        ("tfds:no_such_set", "train", "Dataset no_such_set not found."),
        ("tfds:voc/2007", "train", "is not in {folder}/voc/2007; prepare it: tfds build voc/2007"),
    ],
)
def test_complains_in_one_line(folder, path, split, message):
    with pytest.raises(DataError) as error:
        data.load(path, split=split)
    assert str(error.value) == f"{path}: {message.format(folder=folder)}"

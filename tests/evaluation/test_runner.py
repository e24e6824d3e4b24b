"""Evaluation of Keras models: the numbers follow the weights."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from efficientdet_tf import anchors as anchor_grid
from efficientdet_tf.boxes import to_xywh
from efficientdet_tf.config import Config
from efficientdet_tf.data.records import DataError, DetectionData, LabelMap, Record
from efficientdet_tf.detector import Detector
from efficientdet_tf.evaluation import runner

CONFIG = Config.for_model("efficientdet-lite0").override(
    {
        "model.image_size": [64, 128],
        "model.num_classes": 3,
        "training.eval_batch_size": 2,
        "detection.nms": "hard",
    }
)
LABELS = LabelMap((5, 1, 9), ("disc", "square", "ring"))
SIZES = [(64, 128), (128, 256), (100, 100), (100, 250), (64, 128)]


def anchor_index(image_number):
    """Return the anchor index of an image's object, which lies inside the image."""
    anchors = anchor_grid.from_config(CONFIG)
    inside = np.all((anchors >= 0) & (anchors <= [32, 64, 32, 64]), axis=1)
    return np.flatnonzero(inside)[5 * image_number]


@pytest.fixture(scope="module")
def data():
    """Five images, each a grey level, with an object exactly on an anchor."""
    anchors, records = anchor_grid.from_config(CONFIG), []
    for number, (height, width) in enumerate(SIZES):
        image = np.full((height, width, 3), 40 * number, np.uint8)
        scale = 1 / min(64 / height, 128 / width)
        box = anchors[anchor_index(number)] * scale
        records.append(
            Record(
                image_id=10 * number + 3,
                image=tf.io.encode_png(image).numpy(),
                height=height,
                width=width,
                boxes=box[None].astype(np.float32),
                classes=np.array([number % 3], np.int32),
                is_crowd=np.zeros(1, bool),
                area=np.array([1000.0], np.float32),
                name=f"grey {number}",
            )
        )
    return DetectionData(records, LABELS, source="greys")


class Oracle(keras.layers.Layer):
    """Raw outputs that give each grey level its object, identified by the first pixel.

    `shift` moves the class of all objects, as wrong weights would.
    """

    def build(self, input_shape):
        self.shift = self.add_weight(name="shift", shape=(), dtype="int32", initializer="zeros")

    def call(self, images):
        number = tf.cast(tf.round(images[:, 0, 0, 0] / 40), tf.int32)
        anchors = len(anchor_grid.from_config(CONFIG))
        table = tf.constant([anchor_index(i) for i in range(len(SIZES))], tf.int32)
        at = tf.one_hot(tf.gather(table, number), anchors)
        classes = tf.one_hot((number + self.shift) % 3, 3)
        logits = -9.0 + 12.0 * at[:, :, None] * classes[:, None, :]
        outputs, start = {}, 0
        for level, (height, width) in enumerate([(8, 16), (4, 8), (2, 4), (1, 2), (1, 1)], start=3):
            part = logits[:, start : start + height * width * 9]
            start += height * width * 9
            outputs[f"cls_{level}"] = tf.reshape(part, [-1, height, width, 27])
            outputs[f"box_{level}"] = tf.zeros([tf.shape(images)[0], height, width, 36])
        return outputs


@pytest.fixture(scope="module")
def oracle():
    images = keras.Input((64, 128, 3))
    return keras.Model(images, Oracle(name="oracle")(images))


@pytest.fixture(scope="module")
def evaluation(data, oracle):
    return runner.Evaluation(oracle, data, CONFIG)


def test_a_perfect_model_has_perfect_metrics_at_every_image_size(evaluation):
    result = evaluation.run()
    assert result.num_images == 5
    assert result.metrics["AP50"] == pytest.approx(1.0)
    # Decoding and rescaling errors are below rounding for every aspect ratio.
    assert result.metrics["AP"] == pytest.approx(1.0)


def test_detections_have_the_ids_and_pixels_of_the_data_set(data, evaluation):
    found = evaluation.detect().detections()
    best = {}
    for item in found:
        if item["score"] > 0.5:
            best[item["image_id"]] = item
    assert {key: item["category_id"] for key, item in best.items()} == {
        3: 5,
        13: 1,
        23: 9,
        33: 5,
        43: 1,
    }
    assert best[13]["bbox"] == pytest.approx(to_xywh(data.records[1].boxes[0]), abs=1e-3)


def test_a_second_run_sees_new_weights(oracle, evaluation):
    assert evaluation.run().metrics["AP50"] == pytest.approx(1.0)
    oracle.get_layer("oracle").shift.assign(1)
    assert evaluation.run().metrics["AP50"] < 0.01
    oracle.get_layer("oracle").shift.assign(0)
    assert evaluation.run().metrics["AP50"] == pytest.approx(1.0)


def test_batch_size_changes_nothing(data, oracle, evaluation):
    config = CONFIG.override({"training.eval_batch_size": 8})
    all_at_once = runner.Evaluation(oracle, data, config).detect().detections()
    assert evaluation.detect().detections() == all_at_once


def test_xla_gives_the_same_metrics(data, oracle, evaluation):
    config = CONFIG.override({"training.xla": True})
    compiled = runner.Evaluation(oracle, data, config).detect().detections()
    for one, other in zip(compiled, evaluation.detect().detections(), strict=True):
        assert one["bbox"] == pytest.approx(other["bbox"], abs=1e-3)
        assert {**one, "bbox": None} == {**other, "bbox": None}


def test_the_objects_of_a_missing_image_are_false_negatives(data, oracle, tmp_path, caplog):
    gone = Record(**{**vars(data.records[0]), "image": str(tmp_path / "gone.png")})
    rest = DetectionData([gone, *data.records[1:]], LABELS, source="greys")
    result = runner.Evaluation(oracle, rest, CONFIG).run()
    # One of two objects of the first class is detected: recall 0.5 of that class.
    assert result.per_class[0].ap50 == pytest.approx(51 / 101)
    assert result.per_class[1].ap50 == pytest.approx(1.0)
    assert caplog.messages[-1] == (
        "greys: 1 of 5 images cannot be read, their objects are false negatives; first: grey 0"
    )


def test_a_missing_image_ends_a_strict_evaluation_with_one_line(data, oracle, tmp_path):
    gone = Record(**{**vars(data.records[3]), "image": str(tmp_path / "gone.png")})
    rest = DetectionData([*data.records[:3], gone, data.records[4]], LABELS, source="greys")
    evaluation = runner.Evaluation(oracle, rest, CONFIG.override({"data.strict": True}))
    with pytest.raises(DataError) as error:
        evaluation.run()
    assert str(error.value) == (
        "grey 3: No such file or directory; data.strict ends the evaluation at the first image "
        "that cannot be read"
    )


def test_the_classes_of_the_model_may_have_another_order(data, oracle):
    # The oracle's indices 0, 1, 2 are disc, square, ring in every data set.
    reordered = LabelMap((1, 2, 3), ("ring", "disc", "square"))
    renumbered = [Record(**{**vars(r), "classes": (r.classes + 1) % 3}) for r in data.records]
    rest = DetectionData(renumbered, reordered, source="greys")
    result = runner.Evaluation(oracle, rest, CONFIG, LABELS).run()
    assert [item.name for item in result.per_class] == ["ring", "disc", "square"]
    assert [item.ap50 for item in result.per_class] == pytest.approx([1.0, 1.0, 1.0])


def test_a_detector_gives_the_same_numbers_as_the_pipeline(data, oracle, evaluation):
    detector = Detector.from_model(oracle, CONFIG, LABELS)
    from_detector = runner.run_detector(detector, data).detections()
    from_pipeline = evaluation.detect().detections()
    for one, other in zip(from_detector, from_pipeline, strict=True):
        assert one["bbox"] == pytest.approx(other["bbox"], abs=1e-3)
        assert (one["image_id"], one["category_id"]) == (other["image_id"], other["category_id"])


def test_a_detector_skips_unreadable_images_unless_strict(data, oracle, tmp_path, caplog):
    gone = Record(**{**vars(data.records[0]), "image": str(tmp_path / "gone.png")})
    rest = DetectionData([gone, *data.records[1:]], LABELS, source="greys")
    detector = Detector.from_model(oracle, CONFIG, LABELS)
    result = runner.run_detector(detector, rest).result()
    assert result.per_class[0].ap50 == pytest.approx(51 / 101)
    assert caplog.messages == [
        "greys: 1 of 5 images cannot be read, their objects are false negatives; first: grey 0"
    ]
    with pytest.raises(DataError, match="grey 0: image: .*gone.png"):
        runner.run_detector(detector, rest, strict=True)

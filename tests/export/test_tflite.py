"""TFLite files: inputs, outputs, NMS op, and embedded metadata."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from efficientdet_tf.boxes import pairwise_overlaps
from efficientdet_tf.data import digits
from efficientdet_tf.data.image_files import read_image
from efficientdet_tf.data.records import DataError, LabelMap
from efficientdet_tf.detector import Detector
from efficientdet_tf.inference.array_postprocessing import ArrayPostprocessing
from efficientdet_tf.inference.metadata import Metadata, MetadataError
from efficientdet_tf.inference.tflite_metadata import read_metadata
from efficientdet_tf.inference.tflite_runtime import load_tflite
from efficientdet_tf.run_directory import RunDirectory
from export import tflite, tflite_nms
from export.calibration import representative_images
from export.graph_append import append

FILES = ("model.tflite", "model_float16.tflite")


@pytest.fixture(scope="module", params=FILES)
def model(request, exported):
    return (exported / request.param).read_bytes()


def test_signature(model):
    interpreter = Interpreter(model_content=model)
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner("serving_default")
    found = runner(images=np.zeros((1, 128, 160, 3), np.float32))
    assert {name: (value.shape, value.dtype) for name, value in found.items()} == {
        "boxes": ((1, 100, 4), np.float32),
        "classes": ((1, 100), np.float32),
        "scores": ((1, 100), np.float32),
        "num_detections": ((1,), np.float32),
    }
    count = int(found["num_detections"][0])
    assert (found["scores"][0, :count] > 0.001).all()
    assert not found["scores"][0, count:].any()


def test_threads_do_not_lose_a_class(model):
    images = np.random.default_rng(0).uniform(0, 255, (1, 128, 160, 3)).astype(np.float32)
    results = []
    for threads in (1, 2, 3):
        interpreter = Interpreter(model_content=model, num_threads=threads)
        interpreter.allocate_tensors()
        results.append(interpreter.get_signature_runner()(images=images))
    for result in results[1:]:
        np.testing.assert_allclose(result["scores"], results[0]["scores"], atol=1e-3)
    assert set(results[0]["classes"][0]) == {0, 1, 2}


def test_nms_is_inside(model):
    assert b"TFLite_Detection_PostProcess" in model


def test_metadata(model, tiny_run):
    metadata = read_metadata(model)
    assert metadata.label_map == LabelMap((900, 3, 7), ("ant", "bee", "Kuh ä"))
    config = RunDirectory(tiny_run).config()
    for section in ("model", "anchors", "detection"):
        assert getattr(metadata.config, section) == getattr(config, section)
    # Not where the images of the training are.
    assert b"data" not in metadata.to_json().encode()


def test_float16_is_about_half_as_large(exported):
    full, half = ((exported / name).stat().st_size for name in FILES)
    assert 0.45 < half / full < 0.65


def test_files_of_other_programs_are_recognised(model):
    with pytest.raises(MetadataError, match="^not a .tflite file$"):
        read_metadata(b"something else")
    with pytest.raises(MetadataError, match="^no metadata EFFICIENTDET$"):
        read_metadata(model.replace(b"EFFICIENTDET", b"SOMEBODYELSE"))
    with pytest.raises(MetadataError, match="^metadata EFFICIENTDET: damaged: 'model'$"):
        Metadata.from_json("{}")


def test_int8_takes_bytes_and_has_int8_weights(exported):
    interpreter = Interpreter(model_path=str(exported / "model_int8.tflite"))
    [details] = interpreter.get_input_details()
    assert details["dtype"] == np.uint8
    # A pixel is itself.
    assert details["quantization"] == (pytest.approx(1.0), 0)
    size = {name: (exported / f"model{name}.tflite").stat().st_size for name in ("", "_int8")}
    assert size["_int8"] < 0.75 * size[""]
    kernels = [
        tensor
        for tensor in interpreter.get_tensor_details()
        if len(tensor["shape"]) == 4 and tensor["shape"][0] > 8 and tensor["shape"][1] == 1
    ]
    int8 = [kernel for kernel in kernels if kernel["dtype"] == np.int8]
    # One scale for each filter.
    assert any(len(kernel["quantization_parameters"]["scales"]) > 8 for kernel in int8)


def test_int8_without_images_is_refused(tiny_run, tmp_path):
    run = RunDirectory(tiny_run)
    exporter = tflite.TFLiteExporter(None, run.config(), run.label_map())
    with pytest.raises(ValueError, match="^int8 needs representative images$"):
        exporter.write(tmp_path / "model.tflite", "int8")
    assert not list(tmp_path.iterdir())


def test_representative_images_are_those_of_evaluation_and_follow_the_seed(tiny_run):
    config, data = RunDirectory(tiny_run).config(), digits.load("val", num_images=8)
    first, again, other = (representative_images(data, config, 4, seed) for seed in (1, 1, 2))
    assert [image.shape for image in first] == [(1, 128, 160, 3)] * 4
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    # More than there are.
    assert len(representative_images(data, config, 100)) == 8


def test_images_that_are_all_alike_are_refused(tiny_run):
    config, data = RunDirectory(tiny_run).config(), digits.load("val", num_images=1)
    alike = dataclasses.replace(data, records=data.records * 3)
    with pytest.raises(DataError) as error:
        representative_images(alike, config, 3)
    assert str(error.value) == (
        "digits (val): all images are alike, which says nothing about the range of activations; "
        "choose another --calibration_data"
    )


def test_a_graph_without_custom_ops_has_builtin_ones_only(exported):
    assert b"TFLite_Detection_PostProcess" not in (exported / "model_raw.tflite").read_bytes()
    interpreter = Interpreter(model_path=str(exported / "model_raw.tflite"))
    names = [details["name"] for details in interpreter.get_output_details()]
    shapes = [tuple(details["shape"]) for details in interpreter.get_output_details()]
    assert [shape[-1] for shape in shapes] == [4, 3], names


def test_a_graph_is_appended_by_the_names_of_its_inputs(tmp_path):
    class First(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([2], name="x")])
        def call(self, x):
            return {"double": 2 * x, "square": x * x}

    class Second(tf.Module):
        @tf.function(
            input_signature=[tf.TensorSpec([2], name="square"), tf.TensorSpec([2], name="double")]
        )
        def call(self, square, double):
            return {"difference": square - double, "sine": tf.sin(double)}

    parts = []
    for module in (First(), Second()):
        folder = str(tmp_path / type(module).__name__)
        tf.saved_model.save(module, folder, signatures={"serving_default": module.call})
        parts.append(tf.lite.TFLiteConverter.from_saved_model(folder).convert())
    interpreter = Interpreter(model_content=append(*parts))
    found = interpreter.get_signature_runner()(x=np.array([3, 5], np.float32))
    np.testing.assert_allclose(found["difference"], [3, 15])
    np.testing.assert_allclose(found["sine"], np.sin([6, 10]), rtol=1e-6)
    with pytest.raises(KeyError):
        append(parts[1], parts[0])


def test_nms_over_all_classes_is_that_of_keras_with_any_number_of_threads(
    tiny_run, photograph, tmp_path
):
    run = RunDirectory(tiny_run)
    settings = {"detection.nms": "hard", "detection.nms_scope": "global"}
    config = run.config().override(settings)
    model, labels = run.load_model(), run.label_map()
    [expected] = Detector.from_model(model, config, labels).detect([photograph])
    expected = expected.above(0.3)
    assert len(set(expected.class_indices)) > 1
    path = tflite.export(model, config, labels, tmp_path / "model.tflite")
    for threads in (1, 2, 3):
        backend, _ = load_tflite(path, threads)
        [(boxes, scores, classes)] = backend.detect([read_image(photograph)])
        count = len(expected)
        np.testing.assert_allclose(scores[:count], expected.scores, atol=1e-4)
        np.testing.assert_array_equal(classes[:count], expected.class_indices)
        np.testing.assert_allclose(boxes[:count], expected.boxes, atol=0.1)
        assert not (scores[count:] >= 0.3).any()


def nms(config, deltas, logits):
    """Detections of the NMS graph alone, as (box, class, score) by name."""
    content = tflite.TFLiteExporter(None, config, None)._nms
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    return interpreter.get_signature_runner()(box_deltas=deltas, class_logits=logits)


def postprocessed(config, deltas, logits, top_k):
    """Detections of the postprocessing without TensorFlow."""
    config = config.override({"detection.pre_nms_top_k": top_k})
    return ArrayPostprocessing(config)({"box_deltas": deltas, "class_logits": logits})


@pytest.mark.parametrize("scope", ["per_class", "global"])
def test_nms_may_keep_no_boxes_that_overlap(tiny_run, scope):
    """The operator itself refuses an IoU threshold of 0."""
    settings = {"detection.nms_scope": scope, "detection.iou_threshold": 0}
    config = RunDirectory(tiny_run).config().override(settings)
    anchors, random = tflite_nms.relative_anchors(config), np.random.default_rng(0)
    deltas = np.zeros((1, len(anchors), 4), np.float32)
    logits = random.uniform(-4, 4, (1, len(anchors), 3)).astype(np.float32)
    found = nms(config, deltas, logits)
    count = int(found["num_detections"][0])
    assert count > 10
    boxes, classes = found["boxes"][0, :count], found["classes"][0, :count]
    for index in np.unique(classes) if scope == "per_class" else [None]:
        of_class = boxes if index is None else boxes[classes == index]
        overlaps, _ = pairwise_overlaps(of_class, of_class)
        assert (overlaps[~np.eye(len(of_class), dtype=bool)] < 1e-5).all()


@pytest.mark.parametrize("scope", ["per_class", "global"])
def test_nms_looks_at_the_best_anchors(tiny_run, scope):
    """Of far more anchors than it looks at, 300 have a score above the threshold."""
    config = RunDirectory(tiny_run).config().override({"detection.nms_scope": scope})
    num_anchors, random = len(tflite_nms.relative_anchors(config)), np.random.default_rng(0)
    deltas = random.normal(0, 0.1, (1, num_anchors, 4)).astype(np.float32)
    logits = random.uniform(-12, -9, (1, num_anchors, 3)).astype(np.float32)
    seen = random.choice(num_anchors, 300, replace=False)
    logits[0, seen] = random.uniform(-4, 4, (300, 3))
    few, three = (
        nms(config.override({"detection.pre_nms_top_k": k}), deltas, logits) for k in (5000, 3)
    )
    # On every anchor.
    expected = postprocessed(config, deltas, logits, top_k=3 * num_anchors)
    assert num_anchors > 2 * 1000 and few["num_detections"][0] == 100
    np.testing.assert_array_equal(few["classes"][0], expected["classes"][0])
    np.testing.assert_allclose(few["scores"][0], expected["scores"][0], rtol=1e-5)
    # The three anchors of highest score, each with up to three classes.
    best = np.sort(logits[0].max(axis=1))[-3:]
    assert three["num_detections"][0] <= (9 if scope == "per_class" else 3)
    np.testing.assert_allclose(three["scores"][0, 0], 1 / (1 + np.exp(-best[-1])), rtol=1e-5)
    assert three["scores"][0, 0] == few["scores"][0, 0]


def test_nms_without_top_k_is_on_the_best_class_of_each_anchor(tiny_run):
    settings = {"detection.pre_nms_top_k": 0, "detection.iou_threshold": 0.9}
    config = RunDirectory(tiny_run).config().override(settings)
    num_anchors, random = len(tflite_nms.relative_anchors(config)), np.random.default_rng(0)
    deltas = random.normal(0, 0.1, (1, num_anchors, 4)).astype(np.float32)
    logits = np.full((1, num_anchors, 3), -12, np.float32)
    logits[0, ::100] = random.uniform(-4, 4, logits[0, ::100].shape)
    found = nms(config, deltas, logits)
    expected = postprocessed(config, deltas, logits, top_k=0)
    count = len(logits[0, ::100])
    assert count > 20 and found["num_detections"][0] == expected["num_detections"][0] == count
    np.testing.assert_array_equal(found["classes"][0, :count], expected["classes"][0])
    np.testing.assert_allclose(found["scores"][0, :count], expected["scores"][0], rtol=1e-5)


def test_nms_keeps_more_than_the_100_of_a_class_of_the_operator(tiny_run):
    settings = {"detection.max_detections": 150, "detection.iou_threshold": 1}
    config = RunDirectory(tiny_run).config().override(settings)
    num_anchors = len(tflite_nms.relative_anchors(config))
    logits = np.full((1, num_anchors, 3), -12, np.float32)
    logits[0, :200, 1] = np.linspace(4, -4, 200)
    found = nms(config, np.zeros((1, num_anchors, 4), np.float32), logits)
    assert found["num_detections"][0] == 150 and set(found["classes"][0]) == {1}
    np.testing.assert_allclose(found["scores"][0], 1 / (1 + np.exp(-logits[0, :150, 1])), rtol=1e-5)


def test_an_object_of_many_anchors_hides_none_where_few_detections_are_kept(tiny_run):
    config = RunDirectory(tiny_run).config().override({"detection.max_detections": 2})
    anchors = tflite_nms.relative_anchors(config)
    deltas = np.zeros((1, len(anchors), 4), np.float32)
    logits = np.full((1, len(anchors), 3), -12, np.float32)
    # Sixty anchors have the same box.
    boxes = np.tile(np.float32([0.5, 0.5, 0.4, 0.4]), (60, 1))
    deltas[0, :60, :2] = (boxes[:, :2] - anchors[:60, :2]) / anchors[:60, 2:]
    deltas[0, :60, 2:] = np.log(boxes[:, 2:] / anchors[:60, 2:])
    logits[0, :60, 0], logits[0, -1, 0] = np.linspace(4, 3, 60), 1
    found = nms(config, deltas, logits)
    assert found["num_detections"][0] == 2
    np.testing.assert_allclose(found["boxes"][0, 0], [0.3, 0.3, 0.7, 0.7], atol=1e-5)
    np.testing.assert_allclose(found["scores"][0], 1 / (1 + np.exp([-4, -1])), rtol=1e-5)

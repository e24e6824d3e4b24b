"""TFLite files: inputs, outputs, NMS op, and embedded metadata."""

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.inference.tflite_metadata import (
    Metadata,
    MetadataError,
    read_metadata,
    with_metadata,
)

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


def test_metadata(model):
    assert read_metadata(model) == Metadata(
        image_size=(128, 160),
        pad_value=(127.0, 127.0, 127.0),
        label_map=LabelMap((900, 3, 7), ("ant", "bee", "Kuh ä")),
    )


def test_metadata_changes_nothing_else(model):
    other = Metadata((64, 64), (1.0, 2.0, 3.5), LabelMap((1,), ("x",)))
    stripped = with_metadata(model.replace(b"EFFICIENTDET", b"SOMEBODYELSE"), other)
    assert read_metadata(stripped) == other
    results = []
    for content in (model, stripped):
        interpreter = Interpreter(model_content=content)
        interpreter.allocate_tensors()
        images = np.linspace(0, 255, 128 * 160 * 3, dtype=np.float32).reshape(1, 128, 160, 3)
        results.append(interpreter.get_signature_runner()(images=images))
    for name, value in results[0].items():
        np.testing.assert_array_equal(results[1][name], value)


def test_float16_is_about_half_as_large(exported):
    full, half = ((exported / name).stat().st_size for name in FILES)
    assert 0.45 < half / full < 0.55


def test_files_of_other_programs_are_recognised(model):
    with pytest.raises(MetadataError, match="^not a .tflite file$"):
        read_metadata(b"something else")
    with pytest.raises(MetadataError, match="^no metadata EFFICIENTDET$"):
        read_metadata(model.replace(b"EFFICIENTDET", b"SOMEBODYELSE"))
    with pytest.raises(MetadataError, match="^metadata EFFICIENTDET: damaged: 'image_size'$"):
        Metadata.from_json("{}")

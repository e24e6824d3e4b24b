"""SavedModel: self-contained, its two signatures, and the files beside the graph."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import tiny
from efficientdet_tf import model as model_lib
from efficientdet_tf.config import Config
from efficientdet_tf.data.image_files import read_image
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.detector import Detector
from export import saved_model
from export.saved_model import UNREADABLE

ALONE = """
import sys
import numpy as np
import tensorflow as tf
path, image, output = sys.argv[1:]
serve = tf.saved_model.load(path).signatures["serving_default"]
found = serve(image_bytes=tf.constant([open(image, "rb").read()]))
ours = ("efficientdet_tf", "keras_layers", "export", "official", "tf_keras")
assert not set(ours) & set(sys.modules), sorted(sys.modules)
np.savez(output, **{name: value.numpy() for name, value in found.items()})
"""


@pytest.fixture(scope="module")
def signatures(exported):
    return tf.saved_model.load(str(exported / "saved_model")).signatures


def test_needs_only_tensorflow(signatures, exported, photograph, tmp_path):
    # -I: neither the working directory nor PYTHONPATH is searched for modules.
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, exported / "saved_model", photograph, "found.npz"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    here = signatures["serving_default"](image_bytes=tf.constant([photograph.read_bytes()]))
    with np.load(tmp_path / "found.npz") as alone:
        assert set(alone) == set(here)
        np.testing.assert_allclose(alone["boxes"], here["boxes"], atol=1e-2)
        np.testing.assert_allclose(alone["scores"], here["scores"], atol=1e-4)


def test_encoded_and_decoded_images_give_the_same(signatures, photograph):
    pixels = read_image(photograph)
    encoded = signatures["serving_default"](image_bytes=tf.constant([photograph.read_bytes()] * 2))
    decoded = signatures["serve_images"](images=tf.constant(np.stack([pixels, pixels])))
    for name in encoded:
        if encoded[name].dtype == tf.string:
            assert (encoded[name].numpy() == decoded[name].numpy()).all()
        else:
            np.testing.assert_allclose(encoded[name], decoded[name], atol=1e-3)
            np.testing.assert_allclose(encoded[name][0], encoded[name][1], atol=1e-3)


@pytest.mark.parametrize("name", ["serving_default", "serve_examples", "serve_images"])
def test_output_shapes_and_types(signatures, name):
    outputs = signatures[name].structured_outputs
    assert {name: (spec.shape.as_list(), spec.dtype) for name, spec in outputs.items()} == {
        "boxes": ([None, 100, 4], tf.float32),
        "scores": ([None, 100], tf.float32),
        "classes": ([None, 100], tf.int64),
        "class_indices": ([None, 100], tf.int32),
        "class_names": ([None, 100], tf.string),
        "num_detections": ([None], tf.int32),
        "status": ([None], tf.string),
    }


def test_classes_are_the_category_ids_of_the_data_set(signatures, photograph):
    found = signatures["serving_default"](image_bytes=tf.constant([photograph.read_bytes()]))
    names = {900: "ant", 3: "bee", 7: "Kuh ä"}
    count = int(found["num_detections"][0])
    ids = found["classes"][0].numpy().tolist()
    words = [name.decode() for name in found["class_names"][0].numpy()]
    assert count > 0
    assert [names[id] for id in ids[:count]] == words[:count]
    indices = found["class_indices"][0, :count].numpy()
    assert [(900, 3, 7)[index] for index in indices] == ids[:count]
    assert not any(ids[count:]) and not any(words[count:])


def test_images_of_different_sizes_in_one_request(signatures, photograph):
    small = tf.io.encode_png(read_image(photograph)[:100, :50]).numpy()
    file = io.BytesIO()
    Image.fromarray(read_image(photograph)[:60, :90]).save(file, "WEBP")
    images = tf.constant([photograph.read_bytes(), small, file.getvalue()])
    found = signatures["serving_default"](image_bytes=images)
    alone = signatures["serving_default"](image_bytes=images[1:2])
    np.testing.assert_allclose(found["boxes"][1], alone["boxes"][0], atol=1e-2)
    assert (found["boxes"][1].numpy() <= [100, 50, 100, 50]).all()
    assert (found["boxes"][2].numpy() <= [60, 90, 60, 90]).all()


def example(**features):
    features = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        for name, value in features.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


@pytest.mark.parametrize("name", ["serving_default", "serve_examples"])
def test_an_image_that_cannot_be_decoded_does_not_affect_the_others(signatures, photograph, name):
    whole = photograph.read_bytes()
    files = [whole, b"text", whole[: len(whole) // 2], whole, b"", b"\xff\xd8\xff"]
    if name == "serving_default":
        found = signatures[name](image_bytes=tf.constant(files))
    else:
        examples = [example(**{"image/encoded": file}) for file in files]
        examples[4] = example(other=whole)
        found = signatures[name](examples=tf.constant(examples))
    is_ok = np.isin(np.arange(6), [0, 3])
    expected = np.where(is_ok, "ok", UNREADABLE)
    assert [status.decode() for status in found["status"].numpy()] == expected.tolist()
    alone = signatures["serving_default"](image_bytes=tf.constant([whole]))
    for key in set(found) - {"status"}:
        for index in range(6):
            if is_ok[index] and key != "class_names":
                np.testing.assert_allclose(found[key][index], alone[key][0], atol=1e-3)
            elif is_ok[index]:
                assert (found[key][index].numpy() == alone[key][0].numpy()).all()
            else:
                assert not np.any(found[key][index].numpy())


def test_a_request_without_one_readable_image_is_answered(signatures):
    found = signatures["serving_default"](image_bytes=tf.constant([b"text", b""]))
    assert [status.decode() for status in found["status"].numpy()] == [UNREADABLE] * 2
    assert found["boxes"].shape == [2, 100, 4] and not np.any(found["num_detections"])


def test_an_empty_request_is_answered(signatures):
    found = signatures["serving_default"](image_bytes=tf.constant([], tf.string))
    assert found["boxes"].shape == [0, 100, 4] and found["status"].shape == [0]


def test_label_map_and_config_are_beside_the_graph(exported, tiny_run):
    extra = exported / "saved_model" / "assets.extra"
    assert json.loads((extra / "label_map.json").read_text(encoding="utf-8"))[2] == {
        "id": 7,
        "name": "Kuh ä",
    }
    assert Config.from_yaml(str(extra / "config.yaml")) == Config.from_yaml(
        str(tiny_run / "config.yaml")
    )


def test_weights_are_constants_of_the_graph(exported):
    """So that TensorFlow folds BatchNorm into the convolutions."""
    saved = tf.train.list_variables(str(exported / "saved_model" / "variables" / "variables"))
    assert [name for name, _ in saved] == ["_CHECKPOINTABLE_OBJECT_GRAPH"]
    graph = tf.saved_model.load(str(exported / "saved_model")).signatures["serve_images"].graph
    functions = graph.as_graph_def().library.function
    operations = {node.op for function in functions for node in function.node_def}
    assert "Conv2D" in operations and "ReadVariableOp" not in operations


def test_a_network_with_swish_and_squeeze_and_excitation(photograph, tmp_path):
    """Swish has a gradient of its own, which a frozen graph cannot save."""
    config = Config.for_model("efficientdet-d0").override(
        tiny.NETWORK | {"model.num_classes": 2, "detection.nms": "hard"}
    )
    model, labels = model_lib.build(config), LabelMap((3, 7), ("ant", "bee"))
    path = saved_model.export(model, config, labels, tmp_path / "saved_model")
    pixels = read_image(photograph)
    [found] = Detector.load(path).detect([pixels])
    [expected] = Detector.from_model(model, config, labels).detect([pixels])
    assert len(found) == len(expected) == 100
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-2)

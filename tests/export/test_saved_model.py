"""SavedModel: self-contained, its two signatures, and the files beside the graph."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from efficientdet_tf.config import Config
from efficientdet_tf.data.image_files import read_image

ALONE = """
import sys
import numpy as np
import tensorflow as tf
path, image, output = sys.argv[1:]
serve = tf.saved_model.load(path).signatures["serving_default"]
found = serve(images=tf.constant([open(image, "rb").read()]))
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
    here = signatures["serving_default"](images=tf.constant([photograph.read_bytes()]))
    with np.load(tmp_path / "found.npz") as alone:
        assert set(alone) == set(here)
        np.testing.assert_allclose(alone["boxes"], here["boxes"], atol=1e-2)
        np.testing.assert_allclose(alone["scores"], here["scores"], atol=1e-4)


def test_encoded_and_decoded_images_give_the_same(signatures, photograph):
    pixels = read_image(photograph)
    encoded = signatures["serving_default"](images=tf.constant([photograph.read_bytes()] * 2))
    decoded = signatures["serve_images"](images=tf.constant(np.stack([pixels, pixels])))
    for name in encoded:
        if encoded[name].dtype == tf.string:
            assert (encoded[name].numpy() == decoded[name].numpy()).all()
        else:
            np.testing.assert_allclose(encoded[name], decoded[name], atol=1e-3)
            np.testing.assert_allclose(encoded[name][0], encoded[name][1], atol=1e-3)


def test_output_shapes_and_types(signatures):
    outputs = signatures["serving_default"].structured_outputs
    assert {name: (spec.shape.as_list(), spec.dtype) for name, spec in outputs.items()} == {
        "boxes": ([None, 100, 4], tf.float32),
        "scores": ([None, 100], tf.float32),
        "classes": ([None, 100], tf.int64),
        "class_names": ([None, 100], tf.string),
        "num_detections": ([None], tf.int32),
    }


def test_classes_are_the_category_ids_of_the_data_set(signatures, photograph):
    found = signatures["serving_default"](images=tf.constant([photograph.read_bytes()]))
    names = {900: "ant", 3: "bee", 7: "Kuh ä"}
    count = int(found["num_detections"][0])
    ids = found["classes"][0].numpy().tolist()
    words = [name.decode() for name in found["class_names"][0].numpy()]
    assert count > 0
    assert [names[id] for id in ids[:count]] == words[:count]
    assert not any(ids[count:]) and not any(words[count:])


def test_images_of_different_sizes_in_one_request(signatures, photograph):
    small = tf.io.encode_png(read_image(photograph)[:100, :50]).numpy()
    file = io.BytesIO()
    Image.fromarray(read_image(photograph)[:60, :90]).save(file, "WEBP")
    images = tf.constant([photograph.read_bytes(), small, file.getvalue()])
    found = signatures["serving_default"](images=images)
    alone = signatures["serving_default"](images=images[1:2])
    np.testing.assert_allclose(found["boxes"][1], alone["boxes"][0], atol=1e-2)
    assert (found["boxes"][1].numpy() <= [100, 50, 100, 50]).all()
    assert (found["boxes"][2].numpy() <= [60, 90, 60, 90]).all()


def test_an_item_that_is_no_image_is_named(signatures, photograph):
    images = tf.constant([photograph.read_bytes(), b"text", photograph.read_bytes(), b""])
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        signatures["serving_default"](images=images)
    assert "not JPEG, PNG, GIF, BMP or WebP at these positions of the request:] [1 3]" in str(
        error.value
    )


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

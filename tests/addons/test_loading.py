"""The one import of tensorflow-addons."""

import importlib.util
import subprocess
import sys
import textwrap

import pytest

from efficientdet_tf.config import ConfigError, OptimizerConfig
from efficientdet_tf.training import optimizers

INSTALLED = importlib.util.find_spec("tensorflow_addons") is not None


def printed(program: str) -> str:
    """What a Python of its own prints for the program."""
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_what_does_not_need_it_does_not_import_it():
    """Not even what it also has: LAMB, blur and sharpness."""
    program = """
        import sys
        import tensorflow as tf
        from efficientdet_tf.config import Config
        from efficientdet_tf.data import digits, pipeline
        from efficientdet_tf.training import train

        config = Config.for_model("efficientdet-lite0").override({
            "model.image_size": 64, "neck.num_filters": 16, "neck.num_repeats": 1,
            "model.head_repeats": 1, "model.backbone_depth": 0.3, "model.num_classes": 10,
            "optimizer.name": "lamb", "augmentation.blur": 0.5, "augmentation.sharpness": 0.5})
        model = train.compiled_model(config, steps=1)
        model.optimizer.build(model.trainable_variables)
        batches = pipeline.training_dataset(digits.load("train", num_images=2), config, 2)
        next(iter(batches))
        loaded = [name for name in sys.modules if "addons" in name]
        assert not loaded, loaded
        print("done")
    """
    assert "done" in printed(program)


@pytest.mark.skipif(not INSTALLED, reason="tensorflow-addons has no release for this Python")
def test_it_leaves_keras_as_it_was():
    assert "done" in printed("""
        import sys
        import tensorflow as tf
        import tf_keras
        from efficientdet_tf.addons.loading import load_tensorflow_addons

        before = set(sys.modules)
        optimizers = load_tensorflow_addons("optimizer.name: sgdw").optimizers
        assert issubclass(optimizers.SGDW, tf_keras.optimizers.legacy.Optimizer)
        added = set(sys.modules) - before
        assert "tensorflow_addons" in added
        assert not [name for name in added if name.startswith("keras.src.engine")]
        # Keras 3, which the name stands for outside of this project.
        assert getattr(tf, "keras") is not tf_keras
        assert getattr(tf, "keras").__version__.startswith("3.")
        print("done")
    """)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"name": "sgdw"}, "optimizer.name: sgdw"),
        ({"name": "sgd", "lookahead": 5}, "optimizer.lookahead: 5"),
    ],
)
def test_where_it_is_not_installed_one_line_says_what_to_do(monkeypatch, settings, key):
    # As if there were no such module.
    monkeypatch.setitem(sys.modules, "tensorflow_addons", None)
    with pytest.raises(ConfigError) as error:
        optimizers.build(OptimizerConfig(**settings), 10, 10, 8)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert str(error.value) == (
        f"{key} needs tensorflow-addons, which is not installed: pip install "
        "'tensorflow-addons==0.23.*', which exists for Python 3.11 and older; "
        f"this is Python {version}"
    )

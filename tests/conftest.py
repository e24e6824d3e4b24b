"""What every test can ask for: the golden numbers, the sample data, a clean Keras session."""

import os
from pathlib import Path

# Before the first import of TensorFlow, which reads it once.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_configure(config):
    """Keeps TensorFlow's notices out of the test report."""
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")


@pytest.fixture(scope="session")
def goldens() -> Path:
    """The folder of reference numbers; EFFICIENTDET_GOLDENS overrides where it is."""
    return _folder("EFFICIENTDET_GOLDENS", "goldens")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of sample data sets; EFFICIENTDET_DATA overrides where it is."""
    return _folder("EFFICIENTDET_DATA", "data")


@pytest.fixture
def clean_keras():
    """Clears Keras' global state, so that automatic layer names start anew."""
    import tf_keras as keras

    keras.backend.clear_session()
    yield
    keras.backend.clear_session()


def _folder(variable: str, name: str) -> Path:
    default = REPOSITORY.parent / "shared" / name
    folder = Path(os.environ.get(variable) or default)
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}: set {variable} to the {name} folder")
    return folder

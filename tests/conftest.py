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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """With EFFICIENTDET_REQUIRE_GOLDENS set, a parity test that skips has failed."""
    report = yield
    required = os.environ.get("EFFICIENTDET_REQUIRE_GOLDENS") and "goldens" in item.fixturenames
    if required and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped although the goldens are required: {call.excinfo.value}"
    return report


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

"""Common fixtures: golden numbers, sample data, a clean Keras session."""

import fcntl
import gc
import os
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
# For the processes that tests start: the program, and what tests share, as the smallest backbone.
os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "tests")))
# Before the first import of TensorFlow, which reads it once.
_LEVEL = os.environ.get("TF_CPP_MIN_LOG_LEVEL")
os.environ["TF_CPP_MIN_LOG_LEVEL"] = _LEVEL or "3"

import pytest  # noqa: E402


def pytest_configure(config):
    """Keep TensorFlow's log lines out of the test report."""
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")
    # Models are made of many objects that are kept: it would look through all of them often.
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)
    if _LEVEL is None:
        # The commands that tests start are to keep quiet by themselves.
        del os.environ["TF_CPP_MIN_LOG_LEVEL"]


def pytest_xdist_auto_num_workers():
    """One process more than cores, as each waits at times, and at most one per 10 GB of memory.

    On two cores with 25 GB that is two: three took an eighth longer, as each uses all cores.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(os.cpu_count() + 1, memory // 10_000_000_000))


def pytest_collection_finish():
    """Exempt what is imported now from every later search for garbage."""
    gc.freeze()


def pytest_collection_modifyitems(items):
    """Start with the files that take longest, so that no process ends long after the other."""
    items.sort(key=lambda item: "training" not in item.path.parts)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """With EFFICIENTDET_REQUIRE_GOLDENS set, count a skipped parity test as failed."""
    report = yield
    required = os.environ.get("EFFICIENTDET_REQUIRE_GOLDENS") and "goldens" in item.fixturenames
    if required and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped although the goldens are required: {call.excinfo.value}"
    return report


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(tmp_path_factory):
    """Empty cache folder, separate from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFFICIENTDET_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Folder of reference numbers; EFFICIENTDET_GOLDENS overrides its path."""
    return _folder("EFFICIENTDET_GOLDENS", "goldens")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of sample data sets; EFFICIENTDET_DATA overrides its path."""
    return _folder("EFFICIENTDET_DATA", "data")


@pytest.fixture(scope="module", autouse=True)
def _models_of_a_file_are_freed():
    """Leave no model behind in Keras' global state, so that processes stay small."""
    yield
    import tf_keras as keras

    keras.backend.clear_session()
    gc.collect()
    # What is left stays for good: searching it again after each file took a second and a half.
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _graphs_are_run_as_traced(request):
    """Run graphs of tests/data and tests/training without TensorFlow's optimisation.

    It takes most of the first second of a tiny training step, and a sixth of the start of a stream
    of images. Commands run in processes of their own, and files marked `optimized_graphs`, have it.
    """
    import tensorflow as tf

    is_marked = request.node.get_closest_marker("optimized_graphs") is not None
    folder = request.path.relative_to(Path(__file__).parent).parts[0]
    is_off = not is_marked and folder in ("data", "training")
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": is_off})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


@pytest.fixture
def clean_keras():
    """Clear Keras' global state, so that automatic layer names restart."""
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


@pytest.fixture(scope="session")
def network_config():
    """Function that builds the config of the smallest model with a named feature network."""
    import tiny

    # What is required by a small image, few cells, or feedback into the backbone.
    needs = {
        "rfp": tiny.EFFICIENTNET,
        "fpg": {"neck.num_repeats": 5},
        "attention_fpn": {"neck.options": {"context": "none"}},
    }

    def make(name, **changes):
        return tiny.config(
            **needs.get(name, {})
            | {"model.num_classes": 2, "model.max_level": 7, "neck.name": name}
            | changes
        )

    return make


@pytest.fixture(scope="session")
def photograph(tmp_path_factory) -> Path:
    """Photograph as a JPEG file, 640 pixels wide and 427 high."""
    import PIL.Image
    from sklearn.datasets import load_sample_image

    path = tmp_path_factory.mktemp("images") / "china.jpg"
    PIL.Image.fromarray(load_sample_image("china.jpg")).save(path, quality=95)
    return path


@pytest.fixture(scope="session")
def once_for_all_processes(tmp_path_factory, worker_id):
    """Function that makes a folder by its name, in the first of the test processes that asks."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent

    def once(name: str, make: Callable[[Path], None]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with open(shared / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return once


@pytest.fixture(scope="session")
def tiny_run(once_for_all_processes, photograph) -> Path:
    """Run directory with an untrained network that has some detections of high score."""
    return once_for_all_processes("tiny_run", lambda folder: _write_tiny_run(folder, photograph))


def _write_tiny_run(folder: Path, photograph: Path) -> None:
    import numpy as np
    import PIL.Image
    import tf_keras as keras

    from efficientdet_tf import model as model_lib
    from efficientdet_tf.config import Config
    from efficientdet_tf.data.records import LabelMap
    from efficientdet_tf.run_directory import RunDirectory

    config = Config.for_model(
        "efficientdet-lite0",
        **{
            "model.num_classes": 3,
            "model.image_size": "128x160",
            "model.backbone_width": 0.25,
            "model.backbone_depth": 0.1,
            "neck.num_filters": 16,
            "neck.num_repeats": 1,
            "model.head_repeats": 1,
            "detection.nms": "hard",
        },
    )
    keras.utils.set_random_seed(1)
    model = model_lib.build(config)
    image = PIL.Image.open(photograph).resize((160, 128))
    outputs = model(np.asarray(image, np.float32)[None])
    logits = np.concatenate([v.numpy().ravel() for k, v in outputs.items() if k[:3] == "cls"])
    for variable in model.variables:
        if "class_head/predict/pointwise_kernel" in variable.name:
            variable.assign(variable * 1.5 / logits.std())
        if "class_head/predict/bias" in variable.name:
            variable.assign(np.full(variable.shape, -3.0))
    run = RunDirectory(folder)
    # Sparse ids out of order, and a name that is not ASCII.
    run.create(config, LabelMap((900, 3, 7), ("ant", "bee", "Kuh ä")))
    run.save_weights(model, "best")


@pytest.fixture(scope="session")
def exported(once_for_all_processes, tiny_run) -> Path:
    """Folder that `python -m export` writes for `tiny_run`; its output is in `printed/`."""
    return once_for_all_processes("exported", lambda folder: _export(tiny_run, folder))


def _export(tiny_run: Path, folder: Path) -> None:
    import subprocess
    import sys

    import tiny

    coco_file = tiny.write_coco_file(folder.with_name("calibration"), 20)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "export", f"--model_dir={tiny_run}", f"--output={folder}"),
            "--format=saved_model,tflite,tflite_float16,tflite_int8,tflite_raw,onnx,onnx_raw",
            *(f"--calibration_data={coco_file}", "--calibration_images=20"),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (folder / "printed").mkdir()
    (folder / "printed" / "stdout").write_text(done.stdout)
    (folder / "printed" / "stderr").write_text(done.stderr)

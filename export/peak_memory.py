"""Peak memory of a process that runs a model once.

Run as a script in a process of its own, which loads no more than the runtime needs:
`python export/peak_memory.py model.tflite litert` prints bytes.
"""

import pathlib
import resource
import subprocess
import sys
from collections.abc import Callable

# Runtime of a file by its suffix; TensorFlow for a SavedModel.
_DEFAULT = {".tflite": "litert", ".onnx": "onnxruntime"}


def peak_memory(path: pathlib.Path, runtime: str = "") -> int:
    """Return the bytes by which a process grows that loads a model and runs it once.

    Args:
      path: exported file or SavedModel, or a run directory.
      runtime: "litert", "onnxruntime", "openvino", "openvino_bf16", "tensorflow" or "keras"; ""
        for that of the file. Default "".

    Raises:
      UserError: if the process fails, for example for lack of memory.
    """
    # Here, as the process needs neither.
    from efficientdet_tf.errors import UserError

    runtime = runtime or _DEFAULT.get(path.suffix, "tensorflow")
    command = [sys.executable, __file__, str(path), runtime]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"{path}: cannot be run by itself: {lines[-1]}")
    return int(done.stdout.split()[-1])


def _resident() -> int:
    """Return the largest memory of this process so far in bytes."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        # Linux counts in `ru_maxrss` what the parent had.
        [line] = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _growth(path: str, runtime: str) -> int:
    """Load the runtime, then the model; run it, and return the growth since the runtime."""
    load = {"litert": _litert, "onnxruntime": _onnxruntime, "keras": _keras}.get(runtime)
    if load is None:
        load = _openvino if runtime.startswith("openvino") else _tensorflow
    run = load(path, runtime)
    before = _resident()
    run()
    return _resident() - before


# Each loads a runtime, and returns the function that loads a model and runs it.


def _litert(path: str, runtime: str) -> Callable[[], object]:
    from ai_edge_litert.interpreter import Interpreter

    def run() -> None:
        interpreter = Interpreter(model_path=path)
        interpreter.allocate_tensors()
        interpreter.invoke()

    return run


def _onnxruntime(path: str, runtime: str) -> Callable[[], object]:
    import numpy as np
    import onnxruntime

    def run() -> None:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        [images] = session.get_inputs()
        session.run(None, {images.name: np.zeros([1, *images.shape[1:]], np.float32)})

    return run


def _openvino(path: str, runtime: str) -> Callable[[], object]:
    import numpy as np
    import openvino

    core = openvino.Core()
    precision = "bf16" if runtime.endswith("bf16") else "f32"

    def run() -> None:
        model = core.read_model(path)
        _, *size = model.input(0).partial_shape
        model.reshape([1, *size])
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision})
        compiled(np.zeros(model.input(0).shape, np.float32))

    return run


def _tensorflow(path: str, runtime: str) -> Callable[[], object]:
    import tensorflow as tf

    def run() -> None:
        serve = tf.saved_model.load(path).signatures["serve_images"]
        serve(images=tf.zeros([1, 480, 640, 3], tf.uint8))

    return run


def _keras(path: str, runtime: str) -> Callable[[], object]:
    import numpy as np

    # In place of the folder of this script.
    sys.path[0] = str(pathlib.Path(__file__).parents[1])
    from efficientdet_tf.detector import Detector

    return lambda: Detector.load(path, "keras").detect([np.zeros([480, 640, 3], np.uint8)])


if __name__ == "__main__":
    print(_growth(*sys.argv[1:]))

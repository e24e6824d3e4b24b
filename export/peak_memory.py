"""Peak memory of a process that runs an exported model once.

Run as a script in a process of its own, which loads no more than the runtime needs:
`python export/peak_memory.py model.tflite` prints bytes.
"""

import pathlib
import resource
import subprocess
import sys


def peak_memory(path: pathlib.Path) -> int:
    """Return the bytes by which a process grows that loads a model and runs it once.

    Args:
      path: .tflite file, .onnx file (run by ONNX Runtime) or SavedModel.

    Raises:
      UserError: if the process fails, for example for lack of memory.
    """
    # Here, as the process needs neither.
    from efficientdet_tf.errors import UserError

    command = [sys.executable, __file__, str(path)]
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


def _growth(path: str) -> int:
    """Load the runtime, then the model; run it, and return the growth since the runtime."""
    if path.endswith(".tflite"):
        from ai_edge_litert.interpreter import Interpreter

        before = _resident()
        interpreter = Interpreter(model_path=path)
        interpreter.allocate_tensors()
        interpreter.invoke()
        return _resident() - before
    if path.endswith(".onnx"):
        import numpy as np
        import onnxruntime

        before = _resident()
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        [images] = session.get_inputs()
        session.run(None, {images.name: np.zeros([1, *images.shape[1:]], np.float32)})
        return _resident() - before
    import tensorflow as tf

    before = _resident()
    serve = tf.saved_model.load(path).signatures["serve_images"]
    serve(images=tf.zeros([1, 480, 640, 3], tf.uint8))
    return _resident() - before


if __name__ == "__main__":
    print(_growth(sys.argv[1]))

"""Runtimes of .onnx files: ONNX Runtime and OpenVINO."""

import functools
import importlib.util
import pathlib
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.devices import num_cores
from efficientdet_tf.inference.array_postprocessing import ArrayPostprocessing
from efficientdet_tf.inference.image_resize import ImageResize
from efficientdet_tf.inference.metadata import ENTRY, Metadata, MetadataError
from efficientdet_tf.inference.runtimes import ArtifactError, Found, in_original_pixels

# Outputs of a file without NMS that the postprocessing needs.
_RAW_OUTPUTS = ["box_deltas", "class_logits"]
_OUTPUTS = ["boxes", "class_indices", "scores", "num_detections"]
_PACKAGES = ("onnxruntime", "openvino")
_INSTALL = "pip install '.[onnx]' or '.[openvino]'"


class Session(NamedTuple):
    """A model file, opened by a runtime.

    Attributes:
      run: thread-safe function from an image, float32 [1, H, W, 3], and names of outputs to these
        outputs by name; they are the caller's.
      outputs: names of all outputs.
      metadata: metadata of the file by key.
    """

    run: Callable[[np.ndarray, Sequence[str]], dict[str, np.ndarray]]
    outputs: Sequence[str]
    metadata: dict[str, str]


class OnnxBackend:
    """.onnx file, one image per call; its NMS, or that of the config.

    On a CPU, a batch of 8 takes ONNX Runtime longer than 8 images one by one.
    """

    def __init__(self, session: Session, metadata: Metadata) -> None:
        self._run = session.run
        self._resize = ImageResize.from_config(metadata.config)
        # From a network input to detections with boxes in its pixels.
        self._detect: Callable[[np.ndarray], dict[str, np.ndarray]] = self._detect_with_nms
        if "boxes" not in session.outputs:
            self._postprocess = ArrayPostprocessing(metadata.config)
            self._detect = self._detect_without_nms

    def detect(self, images: Sequence[np.ndarray]) -> list[Found]:
        return [self._detect_one(image) for image in images]

    def _detect_one(self, image: np.ndarray) -> Found:
        pixels, scale, size = self._resize(image)
        return in_original_pixels(self._detect(pixels[None]), 0, scale, size)

    def _detect_with_nms(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        found = self._run(pixels, _OUTPUTS)
        return {**found, "classes": found["class_indices"]}

    def _detect_without_nms(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        return self._postprocess(self._run(pixels, _RAW_OUTPUTS))


def load_onnx(
    path: pathlib.Path, runtime: str = "auto", threads: int | None = None
) -> tuple[OnnxBackend, LabelMap]:
    """Load a file written by `export.onnx_model`.

    Args:
      path: path of the file.
      runtime: a key of `RUNTIMES`, or "auto" for the first of them that is installed. Default
        "auto".
      threads: number of threads; None for that of the cores that this process may use.
        Default None.

    Raises:
      ArtifactError: when the file is damaged or of another program, or when the runtime is not
        installed or does not have what the name says.
    """
    if runtime == "auto":
        runtime = _installed(path)
    elif runtime not in RUNTIMES:
        raise ArtifactError(
            f"{path}: runtime {runtime!r} is unknown; use auto, {', '.join(RUNTIMES)}"
        )
    try:
        session = RUNTIMES[runtime](path, threads or num_cores())
    except ImportError as error:
        # Without a name: one of its libraries is missing.
        missing = f"{error.name} is not installed" if error.name else f"{runtime}: {error}"
        raise ArtifactError(f"{path}: {missing}; {_INSTALL}") from error
    try:
        metadata = Metadata.from_json(session.metadata[ENTRY])
    except (KeyError, MetadataError) as error:
        raise _of_another_program(path) from error
    return OnnxBackend(session, metadata), metadata.label_map


def available_runtimes() -> list[str]:
    """Return the keys of `RUNTIMES` that are installed, and that this processor can do."""
    names = [name for name in _PACKAGES if importlib.util.find_spec(name)]
    if "openvino" in names:
        try:
            import openvino
        except ImportError:
            # One of its libraries is missing.
            names.remove("openvino")
        else:
            if _has_bfloat16(openvino.Core()):
                names.append("openvino_bf16")
    return names


def _installed(path: pathlib.Path) -> str:
    """Return the first runtime whose package is installed."""
    for name in _PACKAGES:
        if importlib.util.find_spec(name):
            return name
    raise ArtifactError(
        f"{path}: needs onnxruntime or openvino, and neither is installed; {_INSTALL}"
    )


def _of_another_program(path: pathlib.Path) -> ArtifactError:
    return ArtifactError(f"{path}: not a model of `python -m export --format=onnx`")


def _open_in_onnxruntime(path: pathlib.Path, threads: int) -> Session:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that spin while they wait take the cores from all others.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Only errors, which are raised as well.
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    # Its errors have no base of their own.
    except Exception as error:
        raise _of_another_program(path) from error

    def run(images: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, {"images": images}), strict=True))

    outputs = [output.name for output in session.get_outputs()]
    return Session(run, outputs, session.get_modelmeta().custom_metadata_map)


def _open_in_openvino(path: pathlib.Path, threads: int, precision: str) -> Session:
    import openvino

    core = openvino.Core()
    if precision == "bf16" and not _has_bfloat16(core):
        raise ArtifactError(f"{path}: this processor has no bfloat16; use the runtime openvino")
    settings = {
        # It would choose bfloat16 by itself where the processor has it.
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
    }
    try:
        model = core.read_model(path)
        _, *size = model.input("images").partial_shape
        # Of a known size it is faster.
        model.reshape([1, *size])
        compiled = core.compile_model(model, "CPU", settings)
    except (RuntimeError, ValueError) as error:
        raise _of_another_program(path) from error
    lock = threading.Lock()

    def run(images: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        # A compiled model has one set of tensors; the results are copies.
        with lock:
            found = compiled({"images": images})
        return {name: found[name] for name in names}

    outputs = [name for output in model.outputs for name in output.names]
    metadata = {}
    if model.has_rt_info(["framework", ENTRY]):
        metadata[ENTRY] = str(model.get_rt_info(["framework", ENTRY]).value)
    return Session(run, outputs, metadata)


def _has_bfloat16(core: Any) -> bool:
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


# Name of a runtime -> function of a path and a number of threads that opens a file.
RUNTIMES: dict[str, Callable[[pathlib.Path, int], Session]] = {
    "onnxruntime": _open_in_onnxruntime,
    "openvino": functools.partial(_open_in_openvino, precision="f32"),
    "openvino_bf16": functools.partial(_open_in_openvino, precision="bf16"),
}

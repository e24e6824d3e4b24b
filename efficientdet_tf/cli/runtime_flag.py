"""The flag --runtime of the commands that load any model."""

from absl import flags


def define_runtime_flag(values: flags.FlagValues) -> None:
    """Declare --runtime, which `Detector.load` checks."""
    flags.DEFINE_string(
        "runtime",
        "auto",
        "Runtime of an .onnx file: onnxruntime, openvino or openvino_bf16; auto takes the first of "
        "them that is installed. keras for a run directory that was measured by "
        "'python -m export --compare'; auto takes its fastest file with the same detections.",
        flag_values=values,
    )

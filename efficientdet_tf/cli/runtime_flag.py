"""The flag --runtime of the commands that load any model."""

from absl import flags


def define_runtime_flag(values: flags.FlagValues, of_runs: str) -> None:
    """Declare --runtime, which `Detector.load` checks.

    Args:
      values: flags of the command.
      of_runs: what it does for a run directory.
    """
    flags.DEFINE_string(
        "runtime",
        "auto",
        "Runtime of an .onnx file: onnxruntime, openvino or openvino_bf16; auto takes the first of "
        f"them that is installed. {of_runs}",
        flag_values=values,
    )

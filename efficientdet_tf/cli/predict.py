"""Command line: detect objects in images and videos; see `inference.result_files`."""

import pathlib
from typing import TYPE_CHECKING

from absl import flags

from efficientdet_tf.cli import command_line
from efficientdet_tf.cli.fusion_flags import define_tta_flag, model_paths
from efficientdet_tf.cli.runtime_flag import define_runtime_flag
from efficientdet_tf.errors import UserError

if TYPE_CHECKING:
    from efficientdet_tf.detector import Detector
    from efficientdet_tf.inference.explanation import Explainer
    from efficientdet_tf.inference.prediction import Counts, PredictionFiles


def define_flags() -> flags.FlagValues:
    """Declare the flags of the command."""
    values = flags.FlagValues()

    def text(name: str, meaning: str) -> None:
        flags.DEFINE_string(name, None, meaning, flag_values=values)

    text(
        "model_path",
        "Run directory, SavedModel folder, .tflite or .onnx file, or name of a published model, as "
        "efficientdet-d0; several with commas between them are an ensemble.",
    )
    define_runtime_flag(
        values,
        "keras for a run directory that was measured by 'python -m export --compare'; auto takes "
        "its fastest file with the same detections.",
    )
    define_tta_flag(values)
    text(
        "server",
        "Instead of --model_path: TensorFlow Serving, host:port for gRPC or http://host:port.",
    )
    flags.DEFINE_string(
        "server_model", "detector", "Name of the model on the server.", flag_values=values
    )
    text(
        "input",
        "An image or a video; a folder that is searched for them in depth; a glob pattern in "
        "quotes; a .txt file with a path or URL a line; an http(s) URL; or camera:0. Videos and "
        "cameras need the extra [video].",
    )
    text("output", "Folder to write images and results to.")
    flags.DEFINE_list(
        "format",
        ["json"],
        "Formats of the results, of: json, jsonl, csv, coco, yolo, voc. The last three are data "
        "sets with images, to correct the labels.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "save_images", True, "Draw images and videos with their detections.", flag_values=values
    )
    flags.DEFINE_bool(
        "explain",
        False,
        "Also draw, for each image, heat maps of where the network looked for its best detections. "
        "For a run directory.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "score_threshold",
        0.3,
        "Drop detections with a lower score.",
        lower_bound=0.0,
        upper_bound=1.0,
        flag_values=values,
    )

    def number(name: str, default: int, least: int, meaning: str) -> None:
        flags.DEFINE_integer(name, default, meaning, lower_bound=least, flag_values=values)

    number("batch_size", 8, 1, "Images per call of the network, where the model allows it.")
    number("stride", 1, 1, "Of a video or camera, detect in every STRIDE-th frame only.")
    number("num_frames", 0, 0, "Largest number of frames of a video or camera; 0 is all.")
    return values


def main(values: flags.FlagValues) -> None:
    """Predict, and print the number of detections.

    Raises:
      UserError: if the model, the input or the output cannot be used; also at the
        end, if some images could not be read, or had no answer of a server.
    """
    command_line.require(values, "input", "output")
    if bool(values.model_path) == bool(values.server):
        raise UserError("--model_path or --server is needed, and not both")
    if values.explain:
        _check_explained(values)
    # Imported here, so that --help and flag errors are fast.
    from efficientdet_tf.inference import prediction
    from efficientdet_tf.inference.views import build_views

    # Before the model is loaded, to fail early for an unknown view or a wrong folder.
    build_views(values.tta)
    files = prediction.plan(
        values.input,
        pathlib.Path(values.output),
        values.format,
        values.save_images,
        values.explain,
    )
    explainer = _load_explainer(values.model_path) if values.explain else None
    detector = _load_detector(values, explainer)
    counts = prediction.predict(
        detector,
        files,
        values.score_threshold,
        batch_size=values.batch_size,
        stride=values.stride,
        num_frames=values.num_frames,
        explainer=explainer,
    )
    print(f"{counts}, written to {values.output}")
    without = len(files.sources) - len(files.explained)
    if values.explain and without:
        what = f"{without} of {len(files.sources)} inputs"
        print(f"--explain: heat maps are for images only; none for {what}")
    if problems := _problems(counts, files):
        raise UserError("; ".join(problems))


def _problems(counts: "Counts", files: "PredictionFiles") -> list[str]:
    """Say what has no results."""
    problems, are_images = [], all(source.kind == "image" for source in files.sources)
    if counts.unreadable:
        what = "images could not be read"
        if not are_images:
            what = "images and videos could not be read completely"
        problems.append(f"{counts.unreadable} of {len(files.sources)} {what}")
    if counts.refused:
        what = "images" if are_images else "images and frames"
        total = counts.refused + counts.images + counts.frames
        problem = f"{counts.refused} of {total} {what} had no answer of the server"
        if counts.is_given_up:
            problem += f", the last {counts.refused_in_a_row} in a row: no more were sent"
        problems.append(problem)
    return problems


def _check_explained(values: flags.FlagValues) -> None:
    """Check that the detections to explain are those of one network with gradients."""
    if values.server:
        raise UserError(
            "--explain: heat maps need gradients, which no server has; use --model_path with the "
            "run directory"
        )
    if values.tta or len(model_paths(values.model_path)) > 1:
        raise UserError(
            "--explain: heat maps are of the detections of one network in the image as it is; use "
            "one run directory, without --tta"
        )


def _load_explainer(model_path: str) -> "Explainer":
    # Detection in a file of another runtime does without TensorFlow.
    from efficientdet_tf.inference.explanation import Explainer

    [path] = model_paths(model_path)
    return Explainer.load(path)


def _load_detector(values: flags.FlagValues, explainer: "Explainer | None") -> "Detector":
    """Load the models of the flags, and fuse them and the views of --tta.

    The network that is explained detects itself, not a faster file that was exported from it.
    """
    from efficientdet_tf.detector import Detector

    if values.server:
        return Detector.from_server(values.server, values.server_model).augmented(values.tta)
    if explainer is not None and values.runtime in ("auto", "keras"):
        return Detector.from_frozen(explainer.model, explainer.config, explainer.label_map)
    detectors = {}
    for path in model_paths(values.model_path):
        detectors[str(path)] = Detector.load(path, values.runtime)
        if description := detectors[str(path)].description:
            print(f"{description}: the fastest here with the detections of the run")
    return Detector.ensemble(detectors, values.tta)


COMMAND = command_line.Command(
    "predict", "Detect objects in images and videos, and write the detections.", define_flags, main
)


def run() -> None:
    """Run the command: entry point of the console script."""
    command_line.run(COMMAND)

"""Assembly and writing of the report page."""

import pathlib

import tf_keras as keras

from efficientdet_tf.data.records import DetectionData
from efficientdet_tf.evaluation.cached_evaluation import Measured
from efficientdet_tf.files import write_atomically
from efficientdet_tf.report import contents as contents_lib
from efficientdet_tf.report import sections
from efficientdet_tf.run_directory import RunDirectory
from efficientdet_tf.visualization.elements import element, to_html

_STYLE = pathlib.Path(__file__).with_name("page.css")
# Forbids loading external resources and running scripts.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_report(
    directory: RunDirectory,
    train_data: DetectionData | None,
    val_data: DetectionData,
    measured: Measured,
    model: keras.Model | None = None,
) -> pathlib.Path:
    """Write `report.html` to a run directory.

    Args:
      directory: run directory; config, environment and metrics are read from it.
      train_data: training set; None when it is no longer readable.
      val_data: validation set.
      measured: evaluation on the validation set.
      model: network with the evaluated weights; None to leave out its fusion weights.
        Default None.

    Returns:
      Path of the file.

    Raises:
      RunDirectoryError: when a file of the run cannot be read.
      WriteError: when the page cannot be written.
    """
    path = directory.path / "report.html"
    text = page(contents_lib.gather(directory, train_data, val_data, measured, model))
    write_atomically(path, text)
    return path


def page(contents: contents_lib.Contents) -> str:
    """Render the HTML document: one file without scripts, for light and dark mode."""
    name = contents.config.model.name
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", **{"http-equiv": "Content-Security-Policy"}, content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"{name}, AP {contents.result.metrics['AP']:.3f}"),
        element("style", _STYLE.read_text(encoding="utf-8")),
    )
    parts = (
        sections.header,
        sections.curves,
        sections.classes,
        sections.precision_recall,
        sections.confusion_matrix,
        sections.worst_images,
        *([sections.fusion_weights] if contents.fusion_weights else []),
        *([sections.exported_files] if contents.exported else []),
        *([sections.runtimes] if contents.comparison else []),
        sections.data,
        sections.settings,
        sections.environment,
    )
    body = element("body", element("main", *(part(contents) for part in parts)))
    return to_html(element("html", head, body, lang="en"))

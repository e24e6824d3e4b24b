"""Assembly and writing of the report page."""

import pathlib

import tf_keras as keras

from efficientdet_tf.data.records import DetectionData
from efficientdet_tf.evaluation.cached_evaluation import Measured
from efficientdet_tf.evaluation.comparison import Comparison
from efficientdet_tf.files import write_atomically
from efficientdet_tf.report import contents as contents_lib
from efficientdet_tf.report import sections
from efficientdet_tf.report.comparison_section import comparison as comparison_section
from efficientdet_tf.report.diagnosis_section import diagnosis
from efficientdet_tf.report.document import document
from efficientdet_tf.run_directory import RunDirectory


def write_report(
    directory: RunDirectory,
    train_data: DetectionData | None,
    val_data: DetectionData,
    measured: Measured,
    model: keras.Model | None = None,
    comparison: Comparison | None = None,
    weights: str = "",
) -> pathlib.Path:
    """Write `report.html` to a run directory.

    Args:
      directory: run directory; config, environment and metrics are read from it.
      train_data: training set; None when it is no longer readable.
      val_data: validation set.
      measured: evaluation on the validation set.
      model: network with the evaluated weights; None to leave out its fusion weights.
        Default None.
      comparison: comparison with another run. Default None.
      weights: the evaluated weights of the run, "best" or "last"; "" if they are those of the
        epoch whose AP they have. Default "".

    Returns:
      Path of the file.

    Raises:
      RunDirectoryError: when a file of the run cannot be read.
      WriteError: when the page cannot be written.
    """
    path = directory.path / "report.html"
    contents = contents_lib.gather(
        directory, train_data, val_data, measured, model, comparison, weights
    )
    write_atomically(path, page(contents))
    return path


def page(contents: contents_lib.Contents) -> str:
    """Render the HTML document: one file without scripts, for light and dark mode."""
    parts = (
        sections.header,
        *([comparison_section] if contents.comparison else []),
        sections.curves,
        diagnosis,
        sections.classes,
        sections.precision_recall,
        sections.confusion_matrix,
        sections.worst_images,
        *([sections.fusion_weights] if contents.fusion_weights else []),
        *([sections.exported_files] if contents.exported else []),
        *([sections.runtimes] if contents.runtimes else []),
        sections.data,
        sections.settings,
        sections.environment,
    )
    title = f"{contents.config.model.name}, AP {sections.metric(contents.result.metrics['AP'])}"
    return document(title, *(part(contents) for part in parts))

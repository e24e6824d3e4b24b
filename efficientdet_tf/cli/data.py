"""Command line: look at a data set. The first argument says how:

show: a picture of some images with their boxes, at the network's size; with
    --augmented as training sees them.
"""

import pathlib
import sys

from absl import flags

from efficientdet_tf.cli import command_line
from efficientdet_tf.config import Config, parse_assignments
from efficientdet_tf.errors import UserError
from efficientdet_tf.files import WriteError, write_atomically
from efficientdet_tf.output_files import (
    check_replaceable,
    encode_image,
    image_format,
    is_own_image,
)

FLAGS = flags.FLAGS

flags.DEFINE_string("data", None, "A data set, as train.py takes it, or 'digits' (built in).")
flags.DEFINE_enum("split", "train", ["train", "val"], "The part, where a data set has both.")
flags.DEFINE_string("output", None, "The picture to write, e.g. grid.png.")
flags.DEFINE_bool("augmented", False, "Change the images as training does.")
flags.DEFINE_integer("images", 16, "The most images to show.", lower_bound=1, upper_bound=400)
flags.DEFINE_integer("columns", 4, "Images in a row.", lower_bound=1)
flags.DEFINE_string("model", None, "Model whose input is shown, e.g. efficientdet-lite0.")
flags.DEFINE_string(
    "config", None, "YAML file with any settings, or built in: digits, finetune, paper."
)
flags.DEFINE_multi_string(
    "set", [], "One setting as key=value, e.g. augmentation.mosaic=1; may be repeated."
)

# What leaves images as they are, but for their size.
_NOT_AUGMENTED = {
    "augmentation.horizontal_flip": False,
    "augmentation.scale_min": 1.0,
    "augmentation.scale_max": 1.0,
    "augmentation.policy": "none",
    "augmentation.color": 0.0,
    "augmentation.blur": 0.0,
    "augmentation.sharpness": 0.0,
    "augmentation.mosaic": 0.0,
    "augmentation.mixup": 0.0,
    "augmentation.grid_mask": 0.0,
}


def show():
    """Writes the picture, and prints how much is on it.

    Raises:
      UserError: with one line for the user.
    """
    for flag in ("data", "output"):
        if not FLAGS[flag].value:
            raise UserError(f"--{flag} is missing: {FLAGS[flag].help}")
    if FLAGS.config:
        config = Config.from_yaml(FLAGS.config, FLAGS.model)
    else:
        config = Config.for_model(FLAGS.model or "efficientdet-d0")
    config = config.override(parse_assignments(FLAGS.set))
    output = pathlib.Path(FLAGS.output)
    image_format(output.suffix)
    check_replaceable(output, is_own_image)
    # Late, so that --help and wrong flags are answered at once.
    from efficientdet_tf import data as data_lib
    from efficientdet_tf.data import pipeline
    from efficientdet_tf.visualization import drawing

    data = data_lib.load(
        FLAGS.data,
        format=config.data.format,
        images=config.data.val_images if FLAGS.split == "val" else config.data.train_images,
        verify=config.data.verify,
        strict=config.data.strict,
        use_difficult=config.data.use_difficult,
        split=FLAGS.split,
    )
    config = config if FLAGS.augmented else config.override(_NOT_AUGMENTED)
    examples = pipeline.training_examples(
        data, config, repeat=FLAGS.augmented, seed=config.training.seed
    )
    examples = list(examples.take(FLAGS.images).as_numpy_iterator())
    if not examples:
        raise UserError(f"{FLAGS.data}: no image can be read")
    classes = [example.classes for example in examples]
    names = [drawing.class_names(data.label_map.names, indices) for indices in classes]
    grid = drawing.draw_batch(
        [example.image for example in examples],
        [example.boxes for example in examples],
        names,
        columns=FLAGS.columns,
        colors=[_colors(*labels) for labels in zip(names, classes)],
    )
    _save(grid, output)
    objects = sum(int((indices >= 0).sum()) for indices in classes)
    ignored = sum(map(len, classes)) - objects
    grey = f" and {ignored} ignored ones in grey" if ignored else ""
    print(f"{len(examples)} images with {objects} objects{grey}, written to {FLAGS.output}")


def _colors(names: list[str], class_indices) -> list[tuple[int, int, int]]:
    """Of each object the colour of its class, or that of ignored ones."""
    from efficientdet_tf.visualization import drawing

    return [
        drawing.class_color(name) if index >= 0 else drawing.IGNORED_COLOR
        for name, index in zip(names, class_indices)
    ]


def _save(picture, path: pathlib.Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, encode_image(picture, path.suffix))
    except WriteError as error:
        raise UserError(f"--output: {error}") from error
    except OSError as error:
        raise UserError(f"--output: {path}: {error}") from error


_COMMANDS = {"show": show}


def run():
    """Entry point of the console script."""
    word = sys.argv.pop(1) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else ""

    def main():
        if word not in _COMMANDS:
            given = f"{word!r} is not" if word else "the first argument has to be"
            raise UserError(f"{given} one of: {', '.join(_COMMANDS)}; see --help")
        _COMMANDS[word]()

    command_line.run("data", main)


if __name__ == "__main__":
    run()

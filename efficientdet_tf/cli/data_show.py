"""Command line: draw the images of a data set in a grid, at the network's input size."""

import pathlib
from typing import TYPE_CHECKING

from absl import flags

from efficientdet_tf.cli import command_line
from efficientdet_tf.cli.config_flags import config_from_flags, define_config_flags
from efficientdet_tf.cli.data_flags import define_source_flags
from efficientdet_tf.errors import UserError
from efficientdet_tf.output_files import (
    check_replaceable,
    image_format,
    is_own_image,
    write_image,
)

if TYPE_CHECKING:
    import numpy as np


def define_flags() -> flags.FlagValues:
    """Declare the flags of the command."""
    values = flags.FlagValues()

    def number(name: str, default: int, meaning: str, most: int | None = None) -> None:
        flags.DEFINE_integer(
            name, default, meaning, lower_bound=1, upper_bound=most, flag_values=values
        )

    define_config_flags(values)
    define_source_flags(values)
    flags.DEFINE_enum(
        "split",
        "train",
        ["train", "val", "test"],
        "Split, if --data holds several.",
        flag_values=values,
    )
    flags.DEFINE_string("output", None, "Image file to write, e.g. grid.png.", flag_values=values)
    flags.DEFINE_bool("augmented", False, "Augment the images as in training.", flag_values=values)
    meaning = "Largest number of images; with --augmented, an image may come several times."
    number("num_images", 16, meaning, 400)
    number("columns", 4, "Images per row.")
    return values


# Settings without augmentation.
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
    "augmentation.copy_paste": 0.0,
    "augmentation.grid_mask": 0.0,
}


def show(values: flags.FlagValues) -> None:
    """Write a grid of a data set's images, and print its numbers of images and objects.

    Raises:
      UserError: if the data set or the output cannot be used.
    """
    command_line.require(values, "data", "output")
    config = config_from_flags(values)
    output = pathlib.Path(values.output)
    image_format(output.suffix)
    check_replaceable(output, is_own_image)
    # Imported here, so that --help and flag errors are fast.
    import numpy as np

    from efficientdet_tf.data import input_size, parts, pipeline
    from efficientdet_tf.visualization import drawing

    data = parts.load_split(
        # What is drawn is read later.
        config.override({"data.verify": "header"}),
        values.split,
        path=values.data,
        format=values.format,
        images=values.images,
    )
    config, chosen = input_size.resolve(config, data.records)
    config = config if values.augmented else config.override(_NOT_AUGMENTED)
    examples = pipeline.training_examples(
        data, config, repeat=values.augmented, seed=config.training.seed
    )
    # Hundreds of large images are a quarter in uint8.
    examples = [
        example._replace(image=np.clip(np.rint(example.image), 0, 255).astype(np.uint8))
        for example in examples.take(values.num_images).as_numpy_iterator()
    ]
    if not examples:
        raise UserError(f"{values.data}: no image can be read")
    classes = [example.classes for example in examples]
    names = [drawing.class_names(data.label_map.names, indices) for indices in classes]
    grid = drawing.draw_batch(
        [example.image for example in examples],
        [example.boxes for example in examples],
        names,
        columns=values.columns,
        colors=[_colors(*labels) for labels in zip(names, classes)],
    )
    write_image(grid, output)
    if chosen:
        print(chosen)
    objects = sum(int((indices >= 0).sum()) for indices in classes)
    ignored = sum(map(len, classes)) - objects
    grey = f" and {ignored} ignored ones in grey" if ignored else ""
    print(f"{len(examples)} images with {objects} objects{grey}, written to {values.output}")


def _colors(names: list[str], class_indices: "np.ndarray") -> list[tuple[int, int, int]]:
    """Return the colour of each object: its class's, or that of ignored objects."""
    from efficientdet_tf.visualization import drawing

    return [
        drawing.class_color(name) if index >= 0 else drawing.IGNORED_COLOR
        for name, index in zip(names, class_indices)
    ]


COMMAND = command_line.Command(
    "data",
    "Write a grid of a data set's images with their boxes, at the network's input size.",
    define_flags,
    show,
)

"""Command line: write the built-in data set as files, to inspect or to try other tools."""

import pathlib

from absl import flags

from efficientdet_tf.cli import command_line
from efficientdet_tf.errors import UserError


def define_flags() -> flags.FlagValues:
    """Declare the flags of the command."""
    values = flags.FlagValues()
    flags.DEFINE_string("output", None, "Folder to write to.", flag_values=values)
    flags.DEFINE_enum("split", "val", ["train", "val"], "Split to write.", flag_values=values)
    flags.DEFINE_integer("num_images", 16, "Number of images.", lower_bound=1, flag_values=values)
    return values


def main(values: flags.FlagValues) -> None:
    """Write the images and `annotations.json`, in COCO's format."""
    command_line.require(values, "output")
    from efficientdet_tf.data import digits
    from efficientdet_tf.data.coco_writer import write_coco

    data = digits.load(values.split, num_images=values.num_images)
    folder = pathlib.Path(values.output)
    try:
        write_coco(data, folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from error
    print(f"{len(data)} images and annotations.json are in {folder}")


COMMAND = command_line.Command(
    "write_digits", "Write the built-in images as files.", define_flags, main
)

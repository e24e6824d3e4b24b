"""Command line: the built-in pictures as files, to look at or to try other tools on."""

import pathlib

from absl import flags

from efficientdet_tf.cli import command_line
from efficientdet_tf.errors import UserError

FLAGS = flags.FLAGS

flags.DEFINE_string("output", None, "Folder to write to.")
flags.DEFINE_enum("split", "val", ["train", "val"], "Which part.")
flags.DEFINE_integer("images", 16, "How many pictures.", lower_bound=1)


def main():
    """Writes the pictures and `annotations.json`, in COCO's format."""
    if not FLAGS.output:
        raise UserError("--output is missing: the folder to write to")
    from efficientdet_tf.data import digits
    from efficientdet_tf.data.coco_writer import write_coco

    data = digits.load(FLAGS.split, num_images=FLAGS.images)
    folder = pathlib.Path(FLAGS.output)
    try:
        write_coco(data, folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from error
    print(f"{len(data)} pictures and annotations.json are in {folder}")


if __name__ == "__main__":
    command_line.run("write_digits", main)

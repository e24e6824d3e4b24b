"""Command line: convert a data set to another format."""

import pathlib

from absl import flags

from efficientdet_tf.cli import command_line
from efficientdet_tf.cli.data_flags import define_source_flags
from efficientdet_tf.errors import UserError

# The keys of `layouts.LAYOUTS`, here so that --help is fast.
FORMATS = ("coco", "voc", "yolo", "tfrecord", "csv")


def define_flags() -> flags.FlagValues:
    """Declare the flags of the command."""
    values = flags.FlagValues()
    define_source_flags(values)
    flags.DEFINE_enum(
        "split",
        "all",
        ["train", "val", "test", "all"],
        "Split, if --data holds several; 'all' is train and val. A single split is written under "
        "this name, 'train' for 'all'.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "to", None, FORMATS, "Format to write; csv is that of Open Images.", flag_values=values
    )
    flags.DEFINE_string("output", None, "Folder to write to.", flag_values=values)
    flags.DEFINE_integer(
        "num_shards", 1, "TFRecord files of each split.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_bool(
        "copy",
        False,
        "Copy the images, to edit them; otherwise they are hard links where possible.",
        flag_values=values,
    )
    return values


def convert(values: flags.FlagValues) -> None:
    """Convert the data set, and print its format, and what is lost and written.

    Raises:
      UserError: if the data set or the output cannot be used.
    """
    command_line.require(values, "data", "to", "output")
    if values.num_shards > 1 and values.to != "tfrecord":
        raise UserError("--num_shards: only TFRecord is written in shards; use --to=tfrecord")
    # Imported here, so that --help and flag errors are fast.
    from efficientdet_tf import data as data_lib
    from efficientdet_tf.data import conversion

    format = data_lib.format_name(values.data, values.format or "auto")
    print(f"{values.data}: format {format}", flush=True)
    splits = (values.split,) if values.split != "all" else conversion.splits_of(values.data, format)
    converted = conversion.convert(
        values.data,
        values.to,
        pathlib.Path(values.output),
        splits,
        source_format=format,
        images=values.images or "",
        copy=values.copy,
        num_shards=values.num_shards,
    )
    for part in converted:
        for line in part.lost:
            print(f"{part.split}: not kept: {line}")
        objects = sum(len(record.boxes) for record in part.data.records)
        problems = f", {len(part.data.problems)} problems" if part.data.problems else ""
        print(f"{part.split}: {len(part.data)} images with {objects} objects{problems}")
    print(f"Written to {values.output} as {values.to}")


COMMAND = command_line.Command(
    "data", "Convert a data set to COCO, VOC, YOLO, TFRecord or CSV.", define_flags, convert
)

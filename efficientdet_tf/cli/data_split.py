"""Command line: divide a data set into training and validation images."""

import pathlib
from typing import TYPE_CHECKING

from absl import flags

from efficientdet_tf.cli import command_line
from efficientdet_tf.cli.data_flags import define_source_flags
from efficientdet_tf.errors import UserError

if TYPE_CHECKING:
    from efficientdet_tf.data.splitting import Divided

# Names of classes in a line.
_MOST_NAMES = 5


def define_flags() -> flags.FlagValues:
    """Declare the flags of the command."""
    values = flags.FlagValues()

    def text(name: str, default: str | None, meaning: str) -> None:
        flags.DEFINE_string(name, default, meaning, flag_values=values)

    define_source_flags(values)
    flags.DEFINE_enum(
        "split", "train", ["train", "val"], "Split, if --data holds both.", flag_values=values
    )
    flags.DEFINE_float(
        "val_fraction", 0.2, "Fraction of the images for validation.", flag_values=values
    )
    flags.DEFINE_integer("seed", 0, "Seed of the division.", lower_bound=0, flag_values=values)
    text(
        "by",
        "image",
        "'image', or a regular expression that is searched in each image's path: images with the "
        "same first group (or match) stay together, e.g. 'camera(\\d+)'.",
    )
    text("output", None, "Folder to write to.")
    flags.DEFINE_bool(
        "copy",
        False,
        "Copy the files, to edit them; otherwise they are hard links where possible.",
        flag_values=values,
    )
    return values


def split(values: flags.FlagValues) -> None:
    """Divide the data set, and print its format and the parts.

    Raises:
      UserError: if the data set or the output cannot be used.
    """
    command_line.require(values, "data", "output")
    if not 0 < values.val_fraction < 1:
        raise UserError(f"--val_fraction: {values.val_fraction:g} is not between 0 and 1")
    # Imported here, so that --help and flag errors are fast.
    from efficientdet_tf import data as data_lib
    from efficientdet_tf.data import splitting

    format = data_lib.format_name(values.data, values.format or "auto")
    print(f"{values.data}: format {format}", flush=True)
    divided = splitting.split(
        values.data,
        pathlib.Path(values.output),
        val_fraction=values.val_fraction,
        seed=values.seed,
        by="" if values.by == "image" else values.by,
        part=values.split,
        format=format,
        images=values.images or "",
        copy=values.copy,
    )
    print(*_summary(divided), sep="\n")
    print(f"Written to {values.output} as {divided.format}")


def _summary(divided: "Divided") -> list[str]:
    from efficientdet_tf.data.statistics import count_objects

    lines = [f"not kept: {line}" for line in divided.lost]
    counts = {name: count_objects(data) for name, data in divided.parts.items()}
    images = {name: len(data) for name, data in divided.parts.items()}
    if divided.num_groups < sum(images.values()):
        lines.append(f"{sum(images.values())} images in {divided.num_groups} groups")
    lines += [f"{name}: {images[name]} images, {counts[name].sum()} objects" for name in images]
    total = counts["train"] + counts["val"]
    names = divided.parts["val"].label_map.names
    shares = [(counts["val"][i] / total[i], names[i]) for i in range(len(names)) if total[i]]
    if shares:
        (least, rare), (most, frequent) = min(shares), max(shares)
        highest = f" to {most:.0%} of {frequent}" if len(shares) > 1 else ""
        lines.append(f"objects in val: {least:.0%} of {rare}{highest}")
    missing = [name for share, name in shares if not share]
    if missing:
        some = ", ".join(missing[:_MOST_NAMES]) + (", ..." if len(missing) > _MOST_NAMES else "")
        lines.append(f"classes without an object in val: {len(missing)}: {some}")
    return lines


COMMAND = command_line.Command(
    "data", "Divide a data set into training and validation images.", define_flags, split
)

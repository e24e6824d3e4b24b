"""Flags of the data set that a command reads: --data, --format and --images."""

from absl import flags


def define_source_flags(values: flags.FlagValues) -> None:
    """Declare the flags; --format and --images are None if they are not given."""

    def text(name: str, default: str | None, meaning: str) -> None:
        flags.DEFINE_string(name, default, meaning, flag_values=values)

    text("data", None, "Data set: a path, or 'digits' (built in).")
    text("format", None, "Format of --data. Default: inferred from the path.")
    text("images", None, "Image folder of --data, if it is not where the format has it.")

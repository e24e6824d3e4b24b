"""Flags of the data set that a command reads: --data, --format and --images."""

from absl import flags


def define_source_flags(values: flags.FlagValues) -> None:
    """Declare the flags; the values of --format and --images are those of `data.load`."""

    def text(name: str, default: str | None, meaning: str) -> None:
        flags.DEFINE_string(name, default, meaning, flag_values=values)

    text("data", None, "Data set: a path, or 'digits' (built in).")
    text("format", "auto", "Format of --data; inferred from the path if it is not given.")
    text("images", "", "Image folder of --data, if it is not where the format has it.")

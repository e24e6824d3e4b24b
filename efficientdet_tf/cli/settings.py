"""Command line: print the reference of the settings."""

from absl import flags

from efficientdet_tf.cli import command_line
from efficientdet_tf.errors import UserError


def define_flags() -> flags.FlagValues:
    """Declare the flags of the command."""
    values = flags.FlagValues()
    flags.DEFINE_string(
        "section", "", "The section to print, e.g. optimizer; all by default.", flag_values=values
    )
    flags.DEFINE_enum(
        "format",
        "text",
        ["text", "markdown"],
        "As text, or as docs/settings.md.",
        flag_values=values,
    )
    return values


def main(values: flags.FlagValues) -> None:
    """Print all settings, or those of a section.

    Raises:
      UserError: if the section is unknown.
    """
    # Imported here, so that --help is fast.
    from efficientdet_tf.config import Config, reference
    from keras_layers.options import did_you_mean

    known = list(Config.model_fields)
    if values.section and values.section not in known:
        raise UserError(f"{values.section!r} is not a section{did_you_mean(values.section, known)}")
    sections = [values.section] if values.section else known
    print(reference.format_sections(sections, values.format))


COMMAND = command_line.Command(
    "settings", "Print the settings: settings [section].", define_flags, main, "section"
)


def run() -> None:
    """Run the command: entry point of the console script."""
    command_line.run(COMMAND)

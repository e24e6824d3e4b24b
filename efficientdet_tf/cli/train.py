"""Command line: train a detector."""

import functools
import math
from typing import TYPE_CHECKING

from absl import flags

from efficientdet_tf.cli import command_line
from efficientdet_tf.cli.config_flags import config_from_flags, define_config_flags
from efficientdet_tf.errors import UserError

if TYPE_CHECKING:
    from efficientdet_tf.training.train import Plan

_SETTINGS = {
    "train_data": "data.train",
    "val_data": "data.val",
    "epochs": "training.epochs",
    "batch_size": "training.batch_size",
    "strategy": "training.strategy",
    "tpu": "training.tpu",
    "pretrained": "training.pretrained",
    "teacher": "distillation.teacher",
    "unlabeled": "distillation.unlabeled",
}


class _NumberOrAuto(flags.IntegerParser):
    """Parser of a whole number or `auto`."""

    def parse(self, argument: str | int) -> int | str:
        """Return the number, or "auto"."""
        if argument == "auto":
            return "auto"
        try:
            return super().parse(argument)
        except ValueError as error:
            raise ValueError("neither auto nor a whole number above 0") from error


def define_flags() -> flags.FlagValues:
    """Declare the flags of the command."""
    values = flags.FlagValues()

    def text(name: str, meaning: str) -> None:
        flags.DEFINE_string(name, None, meaning, flag_values=values)

    def number(name: str, meaning: str) -> None:
        parser = _NumberOrAuto(lower_bound=1)
        flags.DEFINE(parser, name, None, meaning, flag_values=values)

    define_config_flags(values)
    text("model_dir", "Run directory to write; the same command resumes it.")
    text("train_data", "Training data: a path, or 'digits' (built in).")
    text("val_data", "Validation data. Default: those in --train_data, if it holds both.")
    number(
        "epochs",
        "Passes over the training data. auto: more than the recipe's for a small set; with --hours "
        "what fits.",
    )
    number(
        "batch_size",
        "Global batch size: images per step, over all devices. auto is what training data and "
        "memory allow, at most that of the recipe.",
    )
    text("strategy", "auto, cpu, gpu, mirrored, multi_worker or tpu.")
    text("tpu", "Name or grpc:// address of the TPU to train on; with --strategy=tpu not needed.")
    flags.DEFINE_float(
        "hours",
        None,
        "Plan the run for this many hours: recipe, input size, batch, epochs, evaluations and "
        "cache that no other flag gives; steps are measured first.",
        lower_bound=0.0,
        flag_values=values,
    )
    text("pretrained", "Weights to start from: a run, a checkpoint, imagenet or a model's name.")
    text("teacher", "Run directory of a larger detector, whose outputs are learned, too.")
    text("unlabeled", "Folder or glob of images without annotations, for --teacher.")
    return values


def main(values: flags.FlagValues) -> None:
    """Train, and print the last evaluation.

    Raises:
      UserError: if a setting, the data or the run directory cannot be used.
    """
    command_line.require(values, "model_dir")
    if values.epochs == "auto" and values.hours is not None:
        # The plan chooses what is not given.
        values["epochs"].value = None
    config = config_from_flags(values, _SETTINGS)
    if not config.data.train:
        raise UserError(
            "--train_data is missing: a COCO .json file, a Pascal VOC folder, a YOLO data.yaml, "
            "TFRecord files, or 'digits' (built in); a --config may name it as data.train"
        )
    # Imported here, so that --help and setting errors are fast.
    from efficientdet_tf.training.train import train

    result = train(config, values.model_dir, _plan(values))
    if result is not None:
        print(result.table())
    print(f"The run is in {values.model_dir}")


def _plan(values: flags.FlagValues) -> "Plan | None":
    """Return the planner that --hours asks for."""
    if values.hours is None:
        return None
    from efficientdet_tf.config import auto_switch, known_keys, parse_assignments
    from efficientdet_tf.training.planning import plan

    if not math.isfinite(values.hours):
        raise UserError(f"--hours={values.hours:g}: must be a number of hours")
    settings = {key: values[flag].value for flag, key in _SETTINGS.items()}
    settings = parse_assignments(values.set) | {k: v for k, v in settings.items() if v is not None}
    # What is `auto` may be replaced.
    given = {key for key, value in settings.items() if value != "auto"}
    given -= set(map(auto_switch, known_keys()))
    return functools.partial(plan, hours=values.hours, given=given, has_recipe=bool(values.config))


COMMAND = command_line.Command(
    "train", "Train a detector.", define_flags, main, handles_sigterm=True
)


def run() -> None:
    """Run the command: entry point of the console script."""
    command_line.run(COMMAND)

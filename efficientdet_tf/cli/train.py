"""Command line: train a detector."""

from absl import flags

from efficientdet_tf.cli import command_line
from efficientdet_tf.config import Config, parse_assignments
from efficientdet_tf.errors import UserError

FLAGS = flags.FLAGS

flags.DEFINE_string("model", None, "Model to train, e.g. efficientdet-d0 or efficientdet-lite0.")
flags.DEFINE_string("train_data", None, "Training data: a path, or 'digits' (built in).")
flags.DEFINE_string(
    "val_data", None, "Validation data. Left out: those of --train_data, where it holds both."
)
flags.DEFINE_string("model_dir", None, "Folder of the run; the same command resumes it.")
flags.DEFINE_integer("epochs", None, "Passes over the training data.", lower_bound=1)
flags.DEFINE_integer("batch_size", None, "Images in a step, over all devices.", lower_bound=1)
flags.DEFINE_string("strategy", None, "auto, cpu, gpu, mirrored, multi_worker or tpu.")
flags.DEFINE_string("tpu", None, "Name or grpc:// address of the TPU, for --strategy=tpu.")
flags.DEFINE_string(
    "pretrained", None, "Weights to start from: a run, a checkpoint, or a name: efficientdet-d0."
)
flags.DEFINE_string(
    "config", None, "YAML file with any settings, or built in: digits, finetune, paper."
)
flags.DEFINE_multi_string(
    "set", [], "One setting as key=value, e.g. optimizer.learning_rate=0.04; may be repeated."
)

_FLAG_KEYS = {
    "train_data": "data.train",
    "val_data": "data.val",
    "epochs": "training.epochs",
    "batch_size": "training.batch_size",
    "strategy": "training.strategy",
    "tpu": "training.tpu",
    "pretrained": "training.pretrained",
}


def config_from_flags(flag_values):
    """The config of a command line: model table, --config, --set, other flags.

    Raises:
      ConfigError: for a setting that does not exist or has no such value.
    """
    if flag_values.config:
        config = Config.from_yaml(flag_values.config, flag_values.model)
    else:
        config = Config.for_model(flag_values.model or "efficientdet-d0")
    overrides = parse_assignments(flag_values.set)
    for flag, key in _FLAG_KEYS.items():
        if flag_values[flag].value is not None:
            overrides[key] = flag_values[flag].value
    return config.override(overrides)


def main():
    """Trains.

    Raises:
      UserError: with one line for the user.
    """
    if not FLAGS.model_dir:
        raise UserError("--model_dir is missing: the folder to write the run to")
    config = config_from_flags(FLAGS)
    if not config.data.train:
        raise UserError(
            "--train_data is missing: a COCO .json file, a Pascal VOC folder, a YOLO data.yaml, "
            "TFRecord files, or 'digits' (built in); a --config may name it as data.train"
        )
    print(config.to_yaml())
    # Late, so that --help and a wrong setting are answered at once.
    from efficientdet_tf.training.train import train

    result = train(config, FLAGS.model_dir)
    if result is not None:
        print(result.table())
    print(f"The run is in {FLAGS.model_dir}")


def run():
    """Entry point of the console script."""
    command_line.run("train", main)


if __name__ == "__main__":
    run()

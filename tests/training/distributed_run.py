"""Training script for a separate process: devices are chosen at its start.

python distributed_run.py DEVICES MODEL_DIR KEY=VALUE...
"""

import sys

import tensorflow as tf

from efficientdet_tf.cli import command_line
from efficientdet_tf.config import Config, parse_assignments


def main():
    devices, model_dir, *settings = sys.argv[1:]
    [cpu] = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * int(devices)
    )
    # Late: importing it may already use devices.
    from efficientdet_tf.training import train

    config = Config.for_model("efficientdet-lite0").override(parse_assignments(settings))
    train.train(config, model_dir)


if __name__ == "__main__":
    try:
        main()
    except command_line.UserError as error:
        # As the command does, and what ends a process that hangs on a lost worker.
        print(f"train: {error}", file=sys.stderr)
        sys.exit(error.exit_code)

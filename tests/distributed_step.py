"""First training step of a config in a separate process: devices are chosen at its start.

python distributed_step.py DEVICES KEY=VALUE...
"""

import json
import sys

import tensorflow as tf

from efficientdet_tf.config import Config, parse_assignments


def first_step(config: Config) -> dict[str, float]:
    """Run one step from the first batch on, and return its losses."""
    import tf_keras as keras

    from efficientdet_tf.training import strategy, train, trial_steps

    keras.utils.set_random_seed(config.training.seed)
    devices = strategy.create(config.training.strategy)
    data, _ = train.load_data(config)
    config = config.override({"model.num_classes": len(data.label_map)})
    with devices.scope():
        model = train.compiled_model(config, steps=1)
    trial_steps.TrialSteps(model, data, config).run()
    return {name: float(metric.result()) for name, metric in model.trackers.items()}


def main() -> None:
    """Print the losses of the step."""
    devices, *settings = sys.argv[1:]
    [cpu] = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * int(devices)
    )
    config = Config.for_model("efficientdet-lite0").override(parse_assignments(settings))
    print(json.dumps(first_step(config)))


if __name__ == "__main__":
    main()

"""Train a detector: `python train.py --help`."""

from efficientdet_tf.cli.train import run

if __name__ == "__main__":
    run()

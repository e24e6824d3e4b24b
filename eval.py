"""Measures a detector on a data set with COCO's metrics."""

from efficientdet_tf.cli.eval import run

if __name__ == "__main__":
    run()

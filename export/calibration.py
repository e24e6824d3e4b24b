"""Images by which the ranges of int8 activations are found."""

import dataclasses

import numpy as np

from efficientdet_tf.config import Config
from efficientdet_tf.data import pipeline
from efficientdet_tf.data.records import DataError, DetectionData


def representative_images(
    data: DetectionData, config: Config, count: int, seed: int = 0
) -> list[np.ndarray]:
    """Preprocess images of a data set as for evaluation.

    Args:
      data: data set, of images like those that the model will see.
      config: config of the model's input.
      count: number of images; fewer if the data set has fewer.
      seed: seed of the random choice. Default 0.

    Returns:
      Arrays float32 [1, H, W, 3], RGB, 0..255.

    Raises:
      DataError: if no image can be read, or all are alike; the message is one line.
    """
    chosen = np.random.default_rng(seed).permutation(len(data.records))[:count]
    records = [data.records[i] for i in sorted(chosen)]
    batches = pipeline.evaluation_dataset(dataclasses.replace(data, records=records), config, 1)
    images = [batch.numpy() for batch, where in batches if int(where["position"][0]) >= 0]
    if not images:
        raise DataError(f"{data.source}: no image can be read; choose another --calibration_data")
    if len(images) > 1 and all(np.array_equal(image, images[0]) for image in images):
        raise DataError(
            f"{data.source}: all images are alike, which says nothing about the range of "
            "activations; choose another --calibration_data"
        )
    return images

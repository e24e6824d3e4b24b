"""Training steps on real batches before a run starts, to measure it."""

import tensorflow as tf

from efficientdet_tf.config import Config
from efficientdet_tf.data.records import DetectionData
from efficientdet_tf.training.detection_model import EfficientDet
from efficientdet_tf.training.stream import TrainingStream


class TrialSteps:
    """Training steps from the first batch of a run on, which change the model.

    Args:
      model: model of `compiling.compiled_model`.
      data: training set.
      config: config of the model.
    """

    def __init__(self, model: EfficientDet, data: DetectionData, config: Config) -> None:
        self._model = model
        self._stream = TrainingStream(data, config, model.distribute_strategy, 0)
        self._batches = iter(self._stream.batches(0))
        self._step = model.make_train_function()

    def run(self) -> float:
        """Run one step.

        Returns:
          `detection_loss` of its batch, before the step.

        Raises:
          DataError: if no training image can be read.
          tf.errors.ResourceExhaustedError: if the memory of a GPU does not suffice.
        """
        # The metrics are means since the last reset.
        self._model.reset_metrics()
        try:
            # The value, because devices work asynchronously.
            loss = float(self._step(self._batches)["detection_loss"])
        except tf.errors.ResourceExhaustedError:
            raise
        except tf.errors.OpError as failure:
            error = self._stream.explain(failure)
            if error is None:
                raise
            raise error from failure
        self._stream.step_done()
        return loss

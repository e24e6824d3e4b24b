"""Plan of a training run for a budget of hours: recipe, input size, memory and epochs.

The plan measures real steps before it chooses. It replaces no setting that was given by a flag.
"""

import dataclasses
import json
import math
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from efficientdet_tf.config import Config
from efficientdet_tf.data.anchor_proposal import coverage
from efficientdet_tf.data.anchor_recall import best_ious, network_boxes
from efficientdet_tf.data.record_columns import RecordColumns
from efficientdet_tf.data.records import DetectionData, Record
from efficientdet_tf.errors import UserError
from efficientdet_tf.files import write_atomically
from efficientdet_tf.run_directory import RunDirectory
from efficientdet_tf.training import memory, state, strategy, train
from efficientdet_tf.training.stream import TrainingStream

FILE = "plan.json"
# Up to this many images the recipe is `finetune`, which is made for hundreds to thousands.
SMALL_DATA = 20_000
# As many epochs as in the paper; with more, small data sets are overfitted.
MOST_EPOCHS = 300
MOST_EVALUATIONS = 20
# Shares of the budget: a reserve, and the most for evaluations.
RESERVE, EVALUATIONS = 0.1, 0.1
# Epochs, and as many evaluations, if the budget does not suffice for one pass over the data.
PARTIAL_EPOCHS = 10
# Fewest steps of a training.
FEWEST_STEPS = 100
# Sides of input sizes are multiples of this; factors of a size that objects may need; and the
# least gain of best possible recall that is worth a larger one.
_INPUT_STEP, _FACTORS, _GAIN = 32, (1.0, 1.25, 1.5), 0.005
_MOST_ASPECT = 3.0
# Steps that are run before and while the time is taken.
_WARM_UP, _TIMED = 3, 8
# An image of an evaluation takes about this share of one in a training step: the forward pass
# is a third of a step, and NMS is added.
_EVALUATION_SHARE = 0.5


@dataclasses.dataclass(frozen=True)
class Length:
    """Length of a training.

    Attributes:
      epochs: number of epochs.
      steps: steps in an epoch.
      eval_interval: epochs between evaluations.
      seconds: expected duration.
    """

    epochs: int
    steps: int
    eval_interval: int
    seconds: float


def choose_length(
    budget: float,
    step: float,
    steps: int,
    evaluation: float,
    epochs: int | None = None,
    are_steps_fixed: bool = False,
) -> Length:
    """Choose the longest training within a budget.

    Args:
      budget: seconds for steps and evaluations.
      step: seconds of one step.
      steps: steps of one pass over the training set.
      evaluation: seconds of one evaluation.
      epochs: number of epochs; None to choose it. Default None.
      are_steps_fixed: whether an epoch has `steps` steps in any case. Default False.

    Returns:
      The length; of one step at least, even beyond the budget.
    """
    share = budget * EVALUATIONS
    evaluations = max(1, min(MOST_EVALUATIONS, int(share / max(evaluation, 1e-9))))
    total = max(1, int((budget - evaluations * evaluation) / step))
    if epochs is None and (total >= steps or are_steps_fixed):
        epochs = max(1, min(MOST_EPOCHS, total // steps))
    elif epochs is None:
        epochs = min(PARTIAL_EPOCHS, total)
        steps = total // epochs
    interval = math.ceil(epochs / evaluations)
    seconds = epochs * steps * step + math.ceil(epochs / interval) * evaluation
    return Length(epochs, steps, interval, seconds)


def choose_input_size(
    config: Config, records: Sequence[Record], factors: Sequence[float] = _FACTORS
) -> tuple[tuple[int, int], float]:
    """Choose the input size: the images' shape at the config's number of pixels, or larger.

    It is larger, by one of the factors in each direction, if anchors then cover more objects.

    Args:
      config: config with anchors and input size.
      records: records of the training set.
      factors: factors to try, ascending from 1. Default 1, 1.25, 1.5.

    Returns:
      (height, width) in pixels, multiples of 32, and the best possible recall there.
    """
    size = config.model.image_size
    sizes = RecordColumns.build(records).sizes
    aspect = float(np.median(sizes[:, 1] / sizes[:, 0]))
    aspect = min(_MOST_ASPECT, max(1 / _MOST_ASPECT, aspect))
    height = math.sqrt(size[0] * size[1] / aspect)
    tried = [(_rounded(factor * height), _rounded(factor * height * aspect)) for factor in factors]
    recalls = [_recall(config, records, each) for each in tried]
    needed = max(recalls[0] + _GAIN, max(recalls) - _GAIN)
    found = list(zip(tried, recalls))
    return next((pair for pair in found if pair[1] >= needed), found[0])


def _recall(config: Config, records: Sequence[Record], size: tuple[int, int]) -> float:
    """Return the best possible recall at an input size."""
    boxes = network_boxes(records, size, config.model.resize).boxes
    return coverage("", best_ious(boxes, config, size), config).recall


def _text(size: tuple[int, int]) -> str:
    return "x".join(map(str, size))


def _rounded(side: float) -> int:
    return max(2 * _INPUT_STEP, round(side / _INPUT_STEP) * _INPUT_STEP)


def plan(
    config: Config,
    data: tuple[DetectionData, DetectionData],
    devices: tf.distribute.Strategy,
    directory: RunDirectory,
    *,
    hours: float,
    given: Collection[str],
    has_recipe: bool,
) -> Config:
    """Plan a run, print the plan, and store it in the run directory.

    A run that is resumed keeps its plan, and is only resumed with the same hours.

    Args:
      config: settings of the command line.
      data: training and validation set.
      devices: distribution strategy.
      directory: run directory.
      hours: budget of the whole command.
      given: keys of settings that the plan must not replace.
      has_recipe: whether a config file or preset was named, which is then the recipe.

    Returns:
      The planned settings.

    Raises:
      UserError: when the budget is too short or is not that of the run, there are several
        workers, or the run directory cannot be written to.
    """
    if strategy.has_peers(devices):
        raise UserError(
            "--hours: several workers cannot plan together; give --epochs and the settings of "
            f"a plan made on one machine ({FILE})"
        )
    if state.checkpoints(directory):
        stored = _stored(directory, hours)
        print(f"plan of {hours:g} h: as stored in {directory.path / FILE}")
        return config.override({key: stored[key] for key in stored if key not in given})
    print(f"plan of {hours:g} h:", flush=True)
    planner = Planner(config, data, devices, given)
    planner.choose_all(hours, has_recipe)
    directory.make()
    content = {"hours": hours, "settings": planner.settings, "reasons": planner.lines}
    write_atomically(directory.path / FILE, json.dumps(content, indent=1) + "\n")
    return planner.config


def _stored(directory: RunDirectory, hours: float) -> dict[str, Any]:
    """Read the settings of the plan of a run that has begun.

    Raises:
      UserError: if it has none, or one of other hours.
    """
    path = directory.path / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        planned, settings = float(content["hours"]), dict(content["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--hours: {directory.path} is a run without a readable {FILE}; leave it out to "
            "resume the run"
        ) from error
    if planned != hours:
        raise UserError(
            f"--hours={hours:g}: {directory.path} was planned for {planned:g} h; use "
            f"--hours={planned:g} to resume the run, or another --model_dir"
        )
    return settings


class Planner:
    """Chooses settings, and prints a line of why for each.

    Attributes:
      config: settings so far.
      settings: those that the plan has chosen.
      lines: reasons.
      seconds: duration of a step; 0 before it was measured.
    """

    def __init__(
        self,
        config: Config,
        data: tuple[DetectionData, DetectionData],
        devices: tf.distribute.Strategy,
        given: Collection[str],
    ) -> None:
        self.config, self.lines = config, list[str]()
        self.settings: dict[str, Any] = {}
        self._train, self._val = data
        self._devices, self._given = devices, given
        self.seconds = 0.0
        # Bytes of decoded images that will be in memory.
        self._cached = 0

    def choose_all(self, hours: float, has_recipe: bool) -> None:
        """Choose all settings; arguments as in `plan`."""
        began = time.monotonic()
        if not has_recipe:
            self.choose_recipe()
        training = self.config.training
        # Again: the recipe may have another batch size.
        strategy.check_batch(
            self._devices, training.batch_size, training.gradient_accumulation_steps
        )
        self.choose_input_size()
        self.choose_cache()
        built = time.monotonic()
        model = self.fit_memory()
        # The model is built once more.
        startup = time.monotonic() - built + self.time_step(model)
        left = hours * 3600 * (1 - RESERVE) - (time.monotonic() - began) - startup
        self.choose_length(hours, left)

    def _say(self, line: str) -> None:
        self.lines.append(line)
        print(f"  {line}", flush=True)

    def choose_recipe(self) -> None:
        """Choose `finetune` for small data sets."""
        count = len(self._train)
        if count > SMALL_DATA:
            self._say(f"recipe: as published, for {count:,} images")
            return
        defaults = Config.for_model(self.config.model.name)
        recipe = defaults.differences(Config.from_yaml("finetune", self.config.model.name))
        self._choose({key: value for key, (_, value) in recipe.items()})
        self._say(f"recipe: finetune, for {count:,} images")
        if not self.config.training.pretrained:
            self._say("weights: random; --pretrained=imagenet or a model usually helps")

    def choose_input_size(self) -> None:
        """Choose the input size, unless the model's own is replaced already."""
        model = self.config.model
        default = Config.for_model(model.name).model.image_size
        if "model.image_size" in self._given or model.image_size != default:
            return
        # Fitted anchors come later: they may cover what a larger input would.
        factors = _FACTORS[:1] if self.config.anchors.auto else _FACTORS
        chosen, reached = choose_input_size(self.config, self._train.records, factors)
        recall = f"{reached:.3f}"
        if chosen == default:
            self._say(f"input: {_text(chosen)} pixels; best possible recall {recall}")
            return
        self._choose({"model.image_size": chosen})
        before = _recall(self.config, self._train.records, default)
        self._say(
            f"input: {_text(chosen)} pixels, in the shape of the images, instead of "
            f"{_text(default)}; best possible recall {recall} instead of {before:.3f}"
        )

    def choose_cache(self) -> None:
        """Keep decoded images in memory where that is no burden."""
        needed = memory.decoded_size(self._train.records)
        # That of the machine, whatever the devices.
        available = memory.free_memory()
        if available and needed <= memory.CACHE_SHARE * available:
            self._choose({"data.cache": True})
        self._cached = needed if self.config.data.cache else 0
        how = "kept decoded in memory" if self.config.data.cache else "read in each epoch; decoded"
        self._say(f"images: {how}, {memory.gigabytes(needed)}")

    def fit_memory(self) -> keras.Model:
        """Choose micro-batches that fit into memory, and return the model."""
        model = self._model()
        available, needed = memory.available(self._devices), self._memory(model)
        if available and memory.is_in_host(self._devices):
            available = max(1, available - self._cached)
        while available and needed > available and self._more_micro_batches():
            model = self._model()
            needed = self._memory(model)
        accumulation = self.config.training.gradient_accumulation_steps
        self._say(
            f"memory: {memory.gigabytes(needed)} for batches of {self.config.training.batch_size}"
            + (f" in {accumulation} micro-batches" if accumulation > 1 else "")
            + (f", of {memory.gigabytes(available)}" if available else "")
        )
        return model

    def time_step(self, model: keras.Model) -> float:
        """Run some real steps.

        Returns:
          Seconds of the first step, with what is done only once.
        """
        began = time.monotonic()
        stream = TrainingStream(self._train, self.config, self._devices, 0)
        batches, step = iter(stream.batches(0)), model.make_train_function()
        for number in range(_WARM_UP + _TIMED):
            if number == 1:
                first = time.monotonic() - began
            if number == _WARM_UP:
                timed = time.monotonic()
            # The value, because devices work asynchronously.
            float(step(batches)["loss"])
        self.seconds = (time.monotonic() - timed) / _TIMED
        self._say(f"step: {self.seconds:.3g} s, mean of {_TIMED} real ones")
        return first

    def choose_length(self, hours: float, budget: float) -> None:
        """Choose epochs and evaluations for a budget in seconds.

        Raises:
          UserError: when it does not suffice for a training.
        """
        training = self.config.training
        steps = train.steps_per_epoch(self.config, len(self._train))
        evaluation = _EVALUATION_SHARE * self.seconds / training.batch_size * len(self._val)
        has_epochs = "training.epochs" in self._given
        found = choose_length(
            *(budget, self.seconds, steps, evaluation),
            epochs=training.epochs if has_epochs else None,
            are_steps_fixed="training.steps_per_epoch" in self._given,
        )
        if found.epochs * found.steps < FEWEST_STEPS and not has_epochs:
            missing = FEWEST_STEPS * self.seconds + evaluation - budget
            needed = math.ceil(100 * (hours + missing / 3600 / (1 - RESERVE))) / 100
            raise UserError(
                f"--hours={hours:g}: too short for {FEWEST_STEPS} steps of {self.seconds:.3g} s; "
                f"use {needed:g} or more, a smaller --model or a smaller model.image_size"
            )
        chosen = {"training.epochs": found.epochs}
        chosen["training.eval_interval_epochs"] = found.eval_interval
        if found.steps != steps:
            chosen["training.steps_per_epoch"] = found.steps
        self._choose(chosen)
        is_longest = found.epochs == MOST_EPOCHS and not has_epochs
        self._say(
            f"length: {found.epochs} epochs of {found.steps:,} steps, about "
            f"{found.seconds / 3600:.2g} h" + (" (more would overfit)" if is_longest else "")
        )
        interval = self.config.training.eval_interval_epochs
        self._say(f"evaluations: every {interval} epochs")

    def _choose(self, settings: Mapping[str, Any]) -> None:
        settings = {key: value for key, value in settings.items() if key not in self._given}
        self.settings |= settings
        self.config = self.config.override(settings)

    def _model(self) -> keras.Model:
        with self._devices.scope():
            return train.compiled_model(self.config, steps=1)

    def _memory(self, model: keras.Model) -> int:
        return memory.estimate(model, self.config).total * memory.num_shares(self._devices)

    def _more_micro_batches(self) -> bool:
        """Double the micro-batches of a step, if the batch can be divided further."""
        training = self.config.training
        key, value = (
            "training.gradient_accumulation_steps",
            2 * training.gradient_accumulation_steps,
        )
        share = training.batch_size // self._devices.num_replicas_in_sync
        if key in self._given or share % value:
            return False
        self._choose({key: value})
        return True

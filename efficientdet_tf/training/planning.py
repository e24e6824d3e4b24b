"""Plan of a training run for a budget of hours: recipe, input size, batch, memory and epochs.

The plan measures real steps before it chooses. It replaces no setting that was given by a flag.
"""

import json
import math
import time
from collections.abc import Collection, Mapping
from typing import Any

import tensorflow as tf

from efficientdet_tf.config import Config
from efficientdet_tf.data import input_size
from efficientdet_tf.data.record_columns import training_records
from efficientdet_tf.data.records import DetectionData
from efficientdet_tf.errors import UserError
from efficientdet_tf.files import write_atomically
from efficientdet_tf.run_directory import RunDirectory
from efficientdet_tf.training import (
    memory,
    memory_fit,
    range_test,
    run_length,
    state,
    strategy,
)
from efficientdet_tf.training.compiling import steps_per_epoch
from efficientdet_tf.training.trial_steps import TrialSteps

FILE = "plan.json"
# Share of the budget that is kept in reserve.
RESERVE = 0.1
# Fewest steps of a training.
FEWEST_STEPS = 100
# Steps that are run before and while the time is taken.
_WARM_UP, _TIMED = 2, 8
# An image of an evaluation takes about this share of one in a training step: the forward pass
# is a third of a step, and NMS is added.
_EVALUATION_SHARE = 0.5


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
        if training.auto_batch_size or not has_recipe:
            self.choose_batch_size()
        fitting = time.monotonic()
        steps = self.fit_memory()
        # The model is built once more, and its step is traced.
        startup = time.monotonic() - fitting
        self.time_step(steps)
        if self.config.optimizer.auto_learning_rate:
            startup = 2 * startup + range_test.STEPS * self.seconds
            self._say(f"learning rate: by a range test of up to {range_test.STEPS} steps, next")
        left = hours * 3600 * (1 - RESERVE) - (time.monotonic() - began) - startup
        self.choose_length(hours, left)

    def _say(self, line: str) -> None:
        self.lines.append(line)
        print(f"  {line}", flush=True)

    def choose_recipe(self) -> None:
        """Choose `finetune` for small data sets."""
        count = len(self._train)
        if count > run_length.SMALL_DATA:
            self._say(f"recipe: as published, for {count:,} images")
            return
        defaults = Config.for_model(self.config.model.name)
        recipe = defaults.differences(Config.from_yaml("finetune", self.config.model.name))
        # What is to be chosen remains so; the budget gives the epochs.
        switches = {
            "optimizer.auto_learning_rate": self.config.optimizer.auto_learning_rate,
            "model.auto_image_size": self.config.model.auto_image_size,
            "training.auto_epochs": False,
        }
        self._choose({key: value for key, (_, value) in recipe.items()} | switches)
        self._say(f"recipe: finetune, for {count:,} images")
        if not self.config.training.pretrained:
            self._say("weights: random; --pretrained=imagenet or a model usually helps")

    def choose_input_size(self) -> None:
        """Choose the input size, unless the model's own is replaced already."""
        model = self.config.model
        is_own = model.image_size == Config.for_model(model.name).model.image_size
        if not model.auto_image_size and ("model.image_size" in self._given or not is_own):
            return
        asked = self.config.override({"model.image_size": "auto"})
        chosen, line = input_size.resolve(asked, self._train.records)
        self._choose({"model.image_size": chosen.model.image_size})
        self._say(line)

    def choose_cache(self) -> None:
        """Keep decoded images in memory where that is no burden."""
        if self.config.data.service or self.config.data.shuffle_buffer:
            # The user said how they are read.
            return
        needed = memory.decoded_size(training_records(self._train))
        # That of the machine, whatever the devices.
        available = memory.free_memory()
        if available and needed <= memory.CACHE_SHARE * available:
            self._choose({"data.cache": True})
        how = "kept decoded in memory" if self.config.data.cache else "read in each epoch; decoded"
        self._say(f"images: {how}, {memory.gigabytes(needed)}")

    def choose_batch_size(self) -> None:
        """Choose the batch size, which memory does not change."""
        if "training.batch_size" in self._given:
            return
        before, count = self.config.training.batch_size, len(self._train)
        replicas = self._devices.num_replicas_in_sync
        size = memory_fit.choose_batch_size(self.config, count, replicas)
        self._choose({"training.batch_size": size})
        self._say(memory_fit.describe_batch_size(before, size, count))

    def fit_memory(self) -> TrialSteps:
        """Choose micro-batches and gradient checkpointing that fit into memory.

        Returns:
          Further steps of the model with them.
        """
        fit = memory_fit.fit_memory(self.config, self._train, self._devices, self._given)
        self._choose(fit.saving.settings)
        self._say(str(fit))
        return fit.steps

    def time_step(self, steps: TrialSteps) -> None:
        """Take the mean time of some real steps, after the first one."""
        for number in range(_WARM_UP + _TIMED):
            if number == _WARM_UP:
                began = time.monotonic()
            steps.run()
        self.seconds = (time.monotonic() - began) / _TIMED
        self._say(f"step: {self.seconds:.3g} s, mean of {_TIMED} real ones")

    def choose_length(self, hours: float, budget: float) -> None:
        """Choose epochs and evaluations for a budget in seconds.

        Raises:
          UserError: when it does not suffice for a training.
        """
        training = self.config.training
        steps = steps_per_epoch(self.config, len(self._train))
        evaluation = _EVALUATION_SHARE * self.seconds / training.batch_size * len(self._val)
        has_epochs = "training.epochs" in self._given
        has_interval = "training.eval_interval_epochs" in self._given
        found = run_length.choose_length(
            *(budget, self.seconds, steps, evaluation),
            epochs=training.epochs if has_epochs else None,
            are_steps_fixed="training.steps_per_epoch" in self._given,
            interval=training.eval_interval_epochs if has_interval else None,
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
        is_longest = found.epochs == run_length.MOST_EPOCHS and not has_epochs
        passes = f" ({found.epochs * found.steps / steps:.2g} passes over the data)"
        self._say(
            f"length: {found.epochs} epochs of {found.steps:,} steps"
            f"{passes if found.steps != steps else ''}, about {found.seconds / 3600:.2g} h"
            f"{' (more would overfit)' if is_longest else ''}"
        )
        self._say(f"evaluations: every {found.eval_interval} epochs")

    def _choose(self, settings: Mapping[str, Any]) -> None:
        settings = {key: value for key, value in settings.items() if key not in self._given}
        self.settings |= settings
        self.config = self.config.override(settings)

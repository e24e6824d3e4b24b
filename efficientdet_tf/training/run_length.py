"""Length of a training for a budget of seconds: epochs, steps and evaluations."""

import dataclasses
import math

# As many epochs as in the paper; with more, small data sets are overfitted.
MOST_EPOCHS = 300
# Steps below which more epochs raise AP: measured on the kangaroos (docs/recipes.md).
ENOUGH_STEPS = 2400
# Up to this many images the recipe is `finetune`, which is made for hundreds to thousands.
SMALL_DATA = 20_000
MOST_EVALUATIONS = 20
# Largest share of the budget for evaluations.
EVALUATIONS = 0.1
# Epochs if the budget does not suffice for as many passes over the data: each is a tenth of the
# training, and the first one, of rising learning rates, no more than that.
PARTIAL_EPOCHS = 10


def enough_epochs(epochs: int, steps: int) -> int:
    """Return as many epochs as `ENOUGH_STEPS` need, within `epochs` and `MOST_EPOCHS`.

    Args:
      epochs: epochs of the recipe, the result for data that is not small.
      steps: steps in an epoch.
    """
    return max(epochs, min(MOST_EPOCHS, math.ceil(ENOUGH_STEPS / steps)))


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
    interval: int | None = None,
) -> Length:
    """Choose the longest training within a budget.

    Args:
      budget: seconds for steps and evaluations.
      step: seconds of one step.
      steps: steps of one pass over the training set.
      evaluation: seconds of one evaluation.
      epochs: number of epochs; None to choose it. Default None.
      are_steps_fixed: whether an epoch has `steps` steps in any case. Default False.
      interval: epochs between evaluations; None to choose it. Default None.

    Returns:
      The length; of one step at least, even beyond the budget.
    """
    share = budget * EVALUATIONS
    evaluations = max(1, min(MOST_EVALUATIONS, int(share / max(evaluation, 1e-9))))
    if epochs is None:
        passes = _most_epochs(budget, step * steps, evaluation, evaluations, interval)
        if passes >= PARTIAL_EPOCHS or are_steps_fixed:
            epochs = max(1, min(MOST_EPOCHS, passes))
        else:
            count = evaluations if interval is None else math.ceil(PARTIAL_EPOCHS / interval)
            total = max(1, int((budget - count * evaluation) / step))
            epochs = min(PARTIAL_EPOCHS, total)
            steps = total // epochs
    interval = interval or math.ceil(epochs / evaluations)
    seconds = epochs * steps * step + math.ceil(epochs / interval) * evaluation
    return Length(epochs, steps, interval, seconds)


def _most_epochs(
    budget: float, epoch: float, evaluation: float, evaluations: int, interval: int | None
) -> int:
    """Return how many epochs fit into a budget with their evaluations."""
    if interval is None:
        return int((budget - evaluations * evaluation) / epoch)
    rounds, left = divmod(budget, interval * epoch + evaluation)
    # The last epoch is always evaluated.
    rest = min(interval - 1, int((left - evaluation) / epoch))
    return int(rounds) * interval + max(0, rest)

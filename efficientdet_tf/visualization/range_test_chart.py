"""Chart of a learning-rate range test."""

import os

import numpy as np

from efficientdet_tf.files import replacing


def draw_range_test(
    rates: np.ndarray,
    losses: np.ndarray,
    smoothed: np.ndarray,
    chosen: float | None,
    path: str | os.PathLike,
) -> None:
    """Write the loss by learning rate of a step, and the chosen rate.

    Args:
      rates: learning rate of each step, float [n], ascending.
      losses: loss before each step, float [n].
      smoothed: the same, smoothed, float [n].
      chosen: chosen learning rate of a step; None if there is none.
      path: path of the image; the suffix determines its format (.png, .svg, .pdf).

    Raises:
      WriteError: when it cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(rates, losses, color="tab:blue", alpha=0.35, label="loss")
    axes.plot(rates, smoothed, color="tab:blue", label="smoothed")
    if chosen is not None:
        axes.axvline(chosen, color="tab:red", linestyle="dashed", label=f"chosen: {chosen:.2g}")
    axes.set(xscale="log", yscale="log", xlabel="learning rate of a step", ylabel="loss")
    # The divergence would hide the fall.
    axes.set_ylim(top=2 * float(np.max(smoothed[: smoothed.argmin() + 1])))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.set_title("Learning-rate range test")
    axes.legend(fontsize="small")
    with replacing(path) as partial:
        figure.savefig(partial, dpi=110)

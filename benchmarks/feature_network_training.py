"""Training with each feature network on a fixed budget; see `benchmarks.feature_networks`."""

import json
import pathlib
import statistics
import time
from typing import Any

from absl import flags

from benchmarks.compared_networks import NETWORKS, Compared
from benchmarks.measuring import in_own_process
from efficientdet_tf import files
from efficientdet_tf.complexity import measure_parts
from efficientdet_tf.config import Config, parse_assignments

# Of the digits, from scratch. Half of Lite0's backbone and narrow networks at few pixels, so that a
# training takes minutes; at 128 pixels or with fewer steps, FPN learned next to nothing.
# Levels 3 to 7, as some networks need five.
DIGITS = {
    "model.image_size": 192,
    "model.backbone_width": 0.5,
    "model.backbone_depth": 0.5,
    "model.backbone_survival_prob": 1.0,
    "model.head_repeats": 1,
    "neck.num_filters": 32,
    "neck.num_repeats": 2,
    "anchors.scale": 2.0,
    "data.cache": True,
    "optimizer.name": "adam",
    "optimizer.learning_rate": 0.015,
    "optimizer.reference_batch_size": 8,
    "optimizer.warmup_epochs": 0.3,
    "training.batch_size": 8,
    "training.epochs": 6,
    # Mirrored digits are other signs, and jitter hurts so short a training.
    "augmentation.horizontal_flip": False,
    "augmentation.scale_min": 1.0,
    "augmentation.scale_max": 1.0,
}
# Of other data, beside the preset `finetune`: Lite0 as it is, 300 steps of 8 images.
FINE_TUNED = {
    "model.image_size": [128, 192],
    "data.cache": True,
    "data.verify": "header",
    "training.pretrained": "imagenet",
    "training.keep_checkpoints": 1,
    "training.steps_per_epoch": 30,
    "training.epochs": 10,
}


def run(options: flags.FlagValues) -> None:
    """Train what has no result yet; print the table, and draw it.

    Args:
      options: flags of `benchmarks.feature_networks`.
    """
    base = config(options)
    folder = pathlib.Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / "results.jsonl"
    done = {(entry["network"], entry["seed"]) for entry in read(results)}
    # A seed of all networks first: an interrupted comparison compares all of them.
    missing = [
        (row, seed)
        for seed in range(options.seeds)
        for row in NETWORKS
        if (row.title(base), seed) not in done
    ]
    for number, (row, seed) in enumerate(missing, 1):
        name = row.title(base)
        print(f"{number}/{len(missing)} {name}, seed {seed}", flush=True)
        run_folder = folder / f"{name.replace(' ', '_')}_{seed}"
        entry = in_own_process(train, base.to_dict(), row, seed, str(run_folder))
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"network": name, "seed": seed, **entry}) + "\n")
    report(read(results), folder)


def config(options: flags.FlagValues) -> Config:
    """Return the config of all trainings except network and seed."""
    if options.train == "digits":
        base = Config.for_model("efficientdet-lite0").override(DIGITS)
    else:
        base = Config.from_yaml("finetune", "efficientdet-lite0").override(FINE_TUNED)
    base = base.override(
        {"data.train": options.train, "data.val": options.val or options.train}
        | parse_assignments(options.set)
    )
    # Once, at the end.
    return base.override({"training.eval_interval_epochs": base.training.epochs})


def train(settings: dict[str, Any], row: Compared, seed: int, folder: str) -> dict[str, float]:
    """Train and return multiply-adds of the network, AP, AP50 and processor seconds."""
    from efficientdet_tf.run_directory import RunDirectory
    from efficientdet_tf.training import train as run_lib

    base = Config.from_dict(settings)
    began = time.process_time()
    result = run_lib.train(base.override(row.settings(base) | {"training.seed": seed}), folder)
    # Unlike the clock, the same beside other work.
    seconds = time.process_time() - began
    parts = measure_parts(RunDirectory(folder).load_model("last"))
    names = [name for name in ("extra_levels", "feature_network") if name in parts]
    return {
        "multiply_adds": sum(parts[name].multiply_adds for name in names),
        "AP": float(result.metrics["AP"]),
        "AP50": float(result.metrics["AP50"]),
        "seconds": seconds,
    }


def read(results: pathlib.Path) -> list[dict[str, Any]]:
    """Read the trainings so far."""
    if not results.exists():
        return []
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]


def report(entries: list[dict[str, Any]], folder: pathlib.Path) -> None:
    """Print a Markdown table, best first, and draw AP by multiply-adds to `ap.svg`."""
    by_network = {}
    for entry in entries:
        by_network.setdefault(entry["network"], []).append(entry)
    means = {
        name: statistics.mean(entry["AP"] for entry in found) for name, found in by_network.items()
    }
    print("| network | multiply-adds | AP | spread | AP50 | seeds | processor |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in sorted(means, key=lambda name: -means[name]):
        found = by_network[name]
        spread = f"{_spread(found):.3f}" if len(found) > 1 else ""
        print(
            f"| {name} | {found[0]['multiply_adds'] / 1e6:.1f} M | {means[name]:.3f} | {spread} | "
            f"{statistics.mean(e['AP50'] for e in found):.3f} | {len(found)} | "
            f"{statistics.median(e['seconds'] for e in found):.0f} s |"
        )
    _draw(by_network, means, folder / "ap.svg")


def _spread(entries: list[dict[str, Any]]) -> float:
    """Return the standard deviation of AP over seeds, 0 for one."""
    values = [entry["AP"] for entry in entries]
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _lower_fence(values: list[float]) -> float:
    """Return below which a value is an outlier, as in box plots; the least value for few."""
    if len(values) < 4:
        return min(values)
    first, _, third = statistics.quantiles(values)
    return max(min(values), first - 1.5 * (third - first))


def _draw(
    by_network: dict[str, list[dict[str, Any]]], means: dict[str, float], path: pathlib.Path
) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.add_subplot()
    lowest = _lower_fence(list(means.values()))
    for name, found in by_network.items():
        place = (found[0]["multiply_adds"] / 1e6, max(means[name], lowest))
        text = name
        if means[name] < lowest:
            # At the edge, so that it does not take the others' room.
            text += f": {means[name]:.3f}"
            axes.plot(*place, "v", color="grey")
        else:
            axes.errorbar(*place, _spread(found), fmt="o", capsize=3)
        axes.annotate(text, place, xytext=(6, 4), textcoords="offset points", fontsize=7)
    axes.set_xscale("log")
    axes.set_xlabel("multiply-adds of the feature network, millions")
    axes.set_ylabel("AP, mean and standard deviation of the seeds")
    axes.grid(alpha=0.3)
    with files.replacing(path) as partial:
        figure.savefig(partial, format="svg")

"""Benchmark of distillation: a small detector with few labels, with and without a larger teacher.

    python -m benchmarks.distillation --output=runs/distillation

Writes the built-in digits with annotations of a tenth of the training images, trains a larger
teacher on these, then small students for equally many steps: alone, with the teacher, and with the
teacher and the other images without annotations. Prints AP, mean and standard deviation over seeds
of the students. Results are kept in `--output`: the same command resumes where it was interrupted.

    python -m benchmarks.distillation --output=runs/distillation --teacher=runs/demo

With the run of `make demo` as the teacher, which has seen the annotations of all training images.
"""

import json
import pathlib
import statistics
import time
from typing import Any

from absl import flags

from benchmarks.measuring import in_own_process
from efficientdet_tf.cli import command_line
from efficientdet_tf.config import Config, parse_assignments

FLAGS = flags.FlagValues()

flags.DEFINE_string("output", "runs/distillation", "Folder of results.", flag_values=FLAGS)
flags.DEFINE_integer("images", 1200, "Training images.", lower_bound=2, flag_values=FLAGS)
flags.DEFINE_integer("labeled", 120, "Those with annotations.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("val_images", 160, "Validation images.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("seeds", 3, "Trainings of each student.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("steps", 900, "Steps of each training.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_string(
    "teacher", "", "Run of a teacher; without it, one is trained.", flag_values=FLAGS
)
flags.DEFINE_multi_string(
    "set", [], "Settings of all trainings as key=value, as train.py takes them.", flag_values=FLAGS
)

# Evaluations of a training, of which the last one counts.
_EPOCHS = 3
SETTINGS = {
    "model.image_size": 192,
    "model.backbone_survival_prob": 1.0,
    "model.max_level": 5,
    "anchors.scale": 2.0,
    "data.cache": True,
    # Mirrored digits are other signs; few images need some jitter.
    "augmentation.horizontal_flip": False,
    "augmentation.scale_min": 0.8,
    "augmentation.scale_max": 1.25,
    "augmentation.color": 0.3,
    "optimizer.name": "adam",
    "optimizer.learning_rate": 0.015,
    "optimizer.reference_batch_size": 8,
    "optimizer.warmup_epochs": 0.3,
    "training.batch_size": 8,
    "training.epochs": _EPOCHS,
    "training.eval_interval_epochs": _EPOCHS,
    "training.keep_checkpoints": 1,
}
TEACHER = {"model.head_repeats": 2}
STUDENT = {
    "model.backbone_width": 0.35,
    "model.backbone_depth": 0.35,
    "model.head_repeats": 1,
    "neck.num_filters": 32,
    "neck.num_repeats": 1,
}


def main() -> None:
    """Train what has no result yet, and print the table."""
    folder = pathlib.Path(FLAGS.output)
    folder.mkdir(parents=True, exist_ok=True)
    _write_images(folder)
    results = folder / "results.jsonl"
    # A seed of all students first: an interrupted comparison compares all of them.
    students = _students(folder)
    planned = [] if FLAGS.teacher else [("teacher", 0)]
    planned += [(name, seed) for seed in range(FLAGS.seeds) for name in students]
    done = {(entry["name"], entry["seed"]) for entry in _read(results)}
    for name, seed in planned:
        if (name, seed) in done:
            continue
        print(f"{name}, seed {seed}", flush=True)
        own = TEACHER if name == "teacher" else STUDENT | students[name]
        config = _config(folder, own, seed).to_dict()
        entry = in_own_process(train, config, str(_run(folder, name, seed)))
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"name": name, "seed": seed, **entry}) + "\n")
    _report(_read(results))


def train(settings: dict[str, Any], folder: str) -> dict[str, float]:
    """Train, and return parameters, AP, AP50 and processor seconds."""
    from efficientdet_tf.run_directory import RunDirectory
    from efficientdet_tf.training import train as run_lib

    began = time.process_time()
    result = run_lib.train(Config.from_dict(settings), folder)
    # Unlike the clock, the same beside other work; too little for a run that was resumed.
    seconds = time.process_time() - began
    return {
        "parameters": RunDirectory(folder).load_model("last").count_params(),
        "AP": float(result.metrics["AP"]),
        "AP50": float(result.metrics["AP50"]),
        "seconds": seconds,
    }


def _students(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Return the settings of each way to train a student, by name."""
    teacher = {"distillation.teacher": FLAGS.teacher or str(_run(folder, "teacher", 0))}
    unlabeled = {"distillation.unlabeled": str(folder / "unlabeled")}
    return {
        "student alone": {},
        "with teacher": teacher,
        "with teacher and unlabelled images": teacher | unlabeled,
    }


def _config(folder: pathlib.Path, own: dict[str, Any], seed: int) -> Config:
    settings = SETTINGS | own | {"training.seed": seed}
    settings["training.steps_per_epoch"] = max(1, FLAGS.steps // _EPOCHS)
    for split in ("train", "val"):
        settings[f"data.{split}"] = str(folder / split / "annotations.json")
    config = Config.for_model("efficientdet-lite0")
    return config.override(settings | parse_assignments(FLAGS.set))


def _run(folder: pathlib.Path, name: str, seed: int) -> pathlib.Path:
    return folder / f"{name.replace(' ', '_')}_{seed}"


def _write_images(folder: pathlib.Path) -> None:
    """Write the labelled and the validation images with annotations, the others without."""
    if (folder / "val" / "annotations.json").exists():
        return
    import dataclasses

    from efficientdet_tf.data import digits
    from efficientdet_tf.data.coco_writer import write_coco

    made = digits.load("train", num_images=FLAGS.images)
    parts = {"train": made.records[: FLAGS.labeled], "unlabeled": made.records[FLAGS.labeled :]}
    for name, records in parts.items():
        write_coco(dataclasses.replace(made, records=records), folder / name)
    (folder / "unlabeled" / "annotations.json").unlink()
    # Last: it marks that all are written.
    write_coco(digits.load("val", num_images=FLAGS.val_images), folder / "val")


def _read(results: pathlib.Path) -> list[dict[str, Any]]:
    """Read the trainings so far."""
    if not results.exists():
        return []
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]


def _report(entries: list[dict[str, Any]]) -> None:
    """Print a Markdown table in the order of the trainings."""
    print("| training | parameters | AP | spread | AP50 | seeds | processor |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in dict.fromkeys(entry["name"] for entry in entries):
        found = [entry for entry in entries if entry["name"] == name]
        values = [entry["AP"] for entry in found]
        spread = f"{statistics.stdev(values):.3f}" if len(values) > 1 else ""
        print(
            f"| {name} | {found[0]['parameters']:,} | {statistics.mean(values):.3f} | {spread} | "
            f"{statistics.mean(entry['AP50'] for entry in found):.3f} | {len(found)} | "
            f"{statistics.median(entry['seconds'] for entry in found):.0f} s |"
        )


if __name__ == "__main__":
    command_line.run(
        command_line.Command("distillation benchmark", __doc__, lambda: FLAGS, lambda _: main())
    )

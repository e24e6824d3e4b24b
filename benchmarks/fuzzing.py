"""Fuzzing of the readers of data sets: damaged files are errors of one line, and nothing else.

    python -m benchmarks.fuzzing --inputs=10000

For each format a small data set is written, and then, `--inputs` times, a file of it is
mutated: bits flipped, bytes replaced, parts cut, repeated or moved, numbers replaced by extreme
ones. It must load, or be refused by one line; any other exception, a load that takes longer than
`--seconds`, or memory that grows beyond `--megabytes` is a failure, printed with the path of the
mutated file, which is kept. "image" mutates image files of each format that is decoded.
"""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import PIL.Image
import tensorflow as tf
from absl import flags, logging
from tqdm import tqdm

from efficientdet_tf import data
from efficientdet_tf.cli import command_line
from efficientdet_tf.data.conversion import convert
from efficientdet_tf.data.record_images import read_record
from efficientdet_tf.errors import UserError

FLAGS = flags.FlagValues()
flags.DEFINE_integer(
    "inputs", 10_000, "Mutated inputs of each reader.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_list("readers", [], "Readers; all of them by default.", flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "Seed of the mutations.", flag_values=FLAGS)
flags.DEFINE_float("seconds", 10.0, "Longest time of a load.", flag_values=FLAGS)
flags.DEFINE_integer("megabytes", 1000, "Most memory that may be added.", flag_values=FLAGS)
flags.DEFINE_string(
    "output", "runs/fuzzing", "Folder of inputs that made a reader fail.", flag_values=FLAGS
)

# Replacements of numbers in texts.
_EXTREME = (
    *("-1", "0", "1e999", "-1e999", "NaN", "99999999999999999999", "0.0000000001", "", "1.5.2"),
    *('"7"', "null", "[]", "{}", "true", "\\u0000", "\u0663", "1e400000", "-0", "0x10", " "),
)
_SIDE = 48


class TooSlow(Exception):
    """A load that takes too long."""


@dataclasses.dataclass(frozen=True)
class Target:
    """A data set on the disk, of which files are mutated.

    Attributes:
      path: path as `data.load` takes it.
      format: key of `data.FORMATS`.
      files: the files to mutate.
      verify: see `data.load`.
      mutate: function of the content of a file and random numbers, which mutates it.
    """

    path: pathlib.Path
    format: str
    files: list[pathlib.Path]
    verify: str = "header"
    mutate: Callable[[bytes, np.random.Generator], bytes] | None = None


@dataclasses.dataclass
class Outcome:
    """Counts of a reader: inputs that loaded, that were refused, and lines on failures."""

    loaded: int = 0
    refused: int = 0
    failures: list[str] = dataclasses.field(default_factory=list)


def write_targets(folder: pathlib.Path) -> dict[str, Target]:
    """Write a small data set of each format: {reader: what to mutate}."""
    coco = _write_coco(folder / "source")
    targets = {"coco": Target(coco, "coco", [coco])}
    for format, pattern in {
        "voc": "Annotations/*.xml",
        "yolo": "**/*.[ty][xa]*",
        "tfrecord": "*.tfrecord",
        "csv": "*.csv",
    }.items():
        output = folder / format
        convert(str(coco), format, output, ["train"])
        path = output / "data.yaml" if format == "yolo" else output
        change = _mutate_records if format == "tfrecord" else None
        targets[format] = Target(path, format, sorted(output.glob(pattern)), mutate=change)
    targets["labelme"] = _write_labelme(folder / "labelme", coco.parent)
    targets["cvat"] = _write_cvat(folder / "cvat", coco.parent)
    targets["tf_csv"] = _write_tf_csv(folder / "tf_csv", coco.parent)
    images = folder / "image"
    _write_coco(images)
    files = sorted(path for path in images.iterdir() if path.suffix != ".json")
    targets["image"] = Target(images / "annotations.json", "coco", files, "full")
    return targets


def _write_coco(folder: pathlib.Path) -> pathlib.Path:
    """Write an image of each format that is read, with two objects each, as COCO."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    images, annotations = [], []
    for number, suffix in enumerate((".jpg", ".png", ".gif", ".bmp", ".webp"), 1):
        pixels = random.integers(0, 255, (_SIDE, 2 * _SIDE, 3)).astype(np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{number}{suffix}")
        size = {"height": _SIDE, "width": 2 * _SIDE}
        images.append({"id": number, "file_name": f"{number}{suffix}", **size})
        for category in (1, 7):
            annotations.append(
                {
                    **{"id": len(annotations) + 1, "image_id": number, "category_id": category},
                    **{"bbox": [4.5 * category, 3, 20, 17.25], "area": 300.5, "iscrowd": 0},
                    "segmentation": [[1, 2, 30, 40, 5, 6]],
                }
            )
    categories = [{"id": 1, "name": "cat"}, {"id": 7, "name": "dog"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    file = folder / "annotations.json"
    file.write_text(json.dumps(content))
    return file


def _write_tf_csv(folder: pathlib.Path, images: pathlib.Path) -> Target:
    folder.mkdir()
    lines = ["filename,width,height,class,xmin,ymin,xmax,ymax"]
    for image in sorted(path for path in images.iterdir() if path.suffix != ".json"):
        (folder / image.name).hardlink_to(image)
        lines += [f'{image.name},{2 * _SIDE},{_SIDE},"{name}",3,4.5,20,30' for name in ("a", "b")]
    file = folder / "_annotations.csv"
    file.write_text("\n".join(lines))
    return Target(file, "tf_csv", [file])


def _write_labelme(folder: pathlib.Path, images: pathlib.Path) -> Target:
    folder.mkdir()
    for name in ("1.jpg", "2.png"):
        shutil.copy(images / name, folder)
        shapes = [
            {"label": "cat", "shape_type": "rectangle", "points": [[1, 2], [30, 40.5]]},
            {"label": "dog", "shape_type": "polygon", "points": [[1, 2], [30, 4], [5, 20]]},
            {"label": "dog", "shape_type": "circle", "points": [[20, 20], [25, 20]]},
        ]
        size = {"imageHeight": _SIDE, "imageWidth": 2 * _SIDE}
        content = {"shapes": shapes, "imagePath": name, "imageData": None, **size}
        (folder / name).with_suffix(".json").write_text(json.dumps(content))
    return Target(folder, "labelme", sorted(folder.glob("*.json")))


def _write_cvat(folder: pathlib.Path, images: pathlib.Path) -> Target:
    shutil.copytree(images, folder / "images")
    labels = "".join(f"<label><name>{name}</name></label>" for name in ("cat", "dog"))
    body = "".join(
        f'<image id="{number}" name="{name}" width="{2 * _SIDE}" height="{_SIDE}">'
        '<box label="cat" xtl="1.5" ytl="2" xbr="30" ybr="40"/>'
        '<polygon label="dog" points="1,2;30,4;5,20"/>'
        '<ellipse label="dog" cx="20" cy="20" rx="5.5" ry="7"/></image>'
        for number, name in enumerate(("1.jpg", "2.png"))
    )
    file = folder / "annotations.xml"
    file.write_text(
        "<?xml version='1.0'?><annotations><version>1.1</version><meta><task><labels>"
        f"{labels}</labels></task></meta>{body}</annotations>"
    )
    return Target(file, "cvat", [file])


def mutate(content: bytes, random: np.random.Generator) -> bytes:
    """Return the content of a file with one to four random mutations."""
    for _ in range(int(random.integers(1, 5))):
        content = _MUTATIONS[random.integers(len(_MUTATIONS))](content, random)
    return content


def _flip_bits(content: bytes, random: np.random.Generator) -> bytes:
    array = bytearray(content)
    for _ in range(int(random.integers(1, 9))):
        if array:
            array[random.integers(len(array))] ^= 1 << int(random.integers(8))
    return bytes(array)


def _replace_bytes(content: bytes, random: np.random.Generator) -> bytes:
    begin, end = _part(content, random, 16)
    return content[:begin] + random.bytes(end - begin) + content[end:]


def _cut(content: bytes, random: np.random.Generator) -> bytes:
    begin, end = _part(content, random, len(content))
    return content[:begin] + content[end:]


def _truncate(content: bytes, random: np.random.Generator) -> bytes:
    return content[: random.integers(len(content) + 1)]


def _repeat(content: bytes, random: np.random.Generator) -> bytes:
    begin, end = _part(content, random, 200)
    return content[:end] + content[begin:end] * int(random.integers(1, 20)) + content[end:]


def _move(content: bytes, random: np.random.Generator) -> bytes:
    begin, end = _part(content, random, 200)
    part, rest = content[begin:end], content[:begin] + content[end:]
    position = random.integers(len(rest) + 1)
    return rest[:position] + part + rest[position:]


def _replace_number(content: bytes, random: np.random.Generator) -> bytes:
    numbers = list(re.finditer(rb"-?\d+(\.\d+)?", content))
    if not numbers:
        return content
    found = numbers[random.integers(len(numbers))]
    value = _EXTREME[random.integers(len(_EXTREME))].encode()
    return content[: found.start()] + value + content[found.end() :]


def _part(content: bytes, random: np.random.Generator, most: int) -> tuple[int, int]:
    begin = int(random.integers(len(content) + 1))
    return begin, min(len(content), begin + int(random.integers(1, most + 2)))


# Numbers more often: most other mutations end in the parser of a library.
_MUTATIONS: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
    *(_flip_bits, _replace_bytes, _cut, _truncate, _repeat, _move),
    *(_replace_number, _replace_number, _replace_number),
)


def _mutate_records(content: bytes, random: np.random.Generator) -> bytes:
    """Mutate TFRecords: their bytes, or mostly a record with its checksums made right again."""
    if random.random() < 0.2:
        return mutate(content, random)
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/records"
        pathlib.Path(file).write_bytes(content)
        records = list(tf.data.TFRecordDataset(file).as_numpy_iterator())
        changed = random.integers(len(records))
        records[changed] = mutate(records[changed], random)
        with tf.io.TFRecordWriter(file) as writer:
            for record in records:
                writer.write(record)
        return pathlib.Path(file).read_bytes()


def fuzz(
    target: Target,
    inputs: int,
    seed: int = 0,
    seconds: float = 10.0,
    megabytes: int = 1000,
    output: pathlib.Path | None = None,
) -> Outcome:
    """Load a data set with one mutated file, many times.

    Args:
      target: the data set; its files are as before afterwards.
      inputs: number of mutated files.
      seed: seed of the mutations.
      seconds: longest time of a load.
      megabytes: most memory that all loads together may add to the process.
      output: folder of inputs that made the reader fail; None keeps none. Default None.
    """
    random, outcome = np.random.default_rng(seed), Outcome()
    originals = {file: file.read_bytes() for file in target.files}
    before = _peak_megabytes()
    for number in tqdm(range(inputs), target.path.name, disable=None):
        file = target.files[random.integers(len(target.files))]
        file.write_bytes((target.mutate or mutate)(originals[file], random))
        problem = _load(target, seconds, outcome)
        if not problem and _peak_megabytes() - before > megabytes:
            problem, before = "takes too much memory", _peak_megabytes()
        if problem:
            outcome.failures.append(f"input {number} of seed {seed}: {problem}")
            if output is not None:
                output.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, output / f"{seed}_{number}_{file.name}")
        file.write_bytes(originals[file])
    return outcome


def _load(target: Target, seconds: float, outcome: Outcome) -> str:
    """Load a data set, and read its images with verify=full; return what failed, or ""."""
    try:
        with _time_limit(seconds), contextlib.redirect_stderr(io.StringIO()):
            loaded = data.load(str(target.path), format=target.format, verify=target.verify)
            if target.verify == "full":
                for record in loaded.records:
                    read_record(record)
    except UserError as error:
        outcome.refused += 1
        return "" if str(error) and "\n" not in str(error) else f"message {str(error)!r}"
    except TooSlow:
        return f"takes more than {seconds:g} s"
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {error}"
    outcome.loaded += 1
    return ""


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    def end(*ignored: Any) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Fuzz the readers and print their counts."""
    logging.set_verbosity(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        # Not the user's: mutated images are no files to remember.
        os.environ["EFFICIENTDET_CACHE"] = f"{folder}/cache"
        targets = write_targets(pathlib.Path(folder, "data"))
        for name in FLAGS.readers or targets:
            began = time.monotonic()
            output = pathlib.Path(FLAGS.output, name)
            found = fuzz(
                *(targets[name], FLAGS.inputs, FLAGS.seed, FLAGS.seconds, FLAGS.megabytes),
                output=output,
            )
            print(
                f"{name:10}{FLAGS.inputs:>8} inputs, {found.loaded:>6} loaded, {found.refused:>6} "
                f"refused, {len(found.failures):>4} failures, {time.monotonic() - began:6.0f} s",
                flush=True,
            )
            for line in found.failures[:20]:
                print(f"    {line[:300]}", flush=True)


if __name__ == "__main__":
    command_line.run(command_line.Command("fuzzing", __doc__, lambda: FLAGS, lambda values: main()))

"""Command line: statistics of a data set, as a table, JSON and histograms."""

import json
import pathlib
from typing import TYPE_CHECKING

from absl import flags

from efficientdet_tf.cli import command_line
from efficientdet_tf.cli.config_flags import config_from_flags, define_config_flags
from efficientdet_tf.cli.data_flags import define_source_flags
from efficientdet_tf.errors import UserError
from efficientdet_tf.output_files import (
    OutputError,
    check_replaceable,
    is_own_image,
    replacing_output,
)

if TYPE_CHECKING:
    from efficientdet_tf.data.statistics import DataSummary

_KEYS = {"format", "splits"}


def define_flags() -> flags.FlagValues:
    """Declare the flags of the command."""
    values = flags.FlagValues()
    define_config_flags(values)
    define_source_flags(values)
    flags.DEFINE_enum(
        "split",
        "all",
        ["train", "val", "test", "all"],
        "Split, if --data holds several; 'all' is train and val.",
        flag_values=values,
    )
    flags.DEFINE_string("json", None, "JSON file to write the numbers to.", flag_values=values)
    flags.DEFINE_string("plot", None, "PNG file to write histograms to.", flag_values=values)
    return values


def stats(values: flags.FlagValues) -> None:
    """Print the statistics of a data set, and write what is asked for.

    Raises:
      UserError: if the data set or an output cannot be used.
    """
    command_line.require(values, "data")
    config = config_from_flags(values)
    _check_outputs(values)
    # Imported here, so that --help and flag errors are fast.
    from efficientdet_tf import data as data_lib
    from efficientdet_tf.data import conversion, input_size, parts
    from efficientdet_tf.data.statistics import summarize

    format = data_lib.format_name(values.data, values.format or config.data.format)
    print(f"{values.data}: format {format}", flush=True)
    # No pixels are needed.
    config = config.override({"data.verify": "header"})
    summaries: dict[str, DataSummary] = {}
    splits = (values.split,) if values.split != "all" else conversion.splits_of(values.data, format)
    for split in splits:
        data = parts.load_split(
            config, split, path=values.data, format=format, images=values.images
        )
        if not summaries:
            config, chosen = input_size.resolve(config, data.records)
            if chosen:
                print(chosen)
        summary = summarize(data, config.model.image_size, config.model.resize)
        summaries[split] = summary
        print("", *_table(split, summary), sep="\n", flush=True)
    if values.json:
        numbers = {split: summary.to_dict() for split, summary in summaries.items()}
        content = json.dumps({"format": format, "splits": numbers}, ensure_ascii=False, indent=1)
        _write("json", values.json, content + "\n")
    if values.plot:
        if len({summary.label_map for summary in summaries.values()}) > 1:
            raise UserError("--plot: the splits have different classes; choose one with --split")
        from efficientdet_tf.visualization.data_charts import draw_histograms

        _write("plot", values.plot, draw_histograms(summaries))


def _check_outputs(values: flags.FlagValues) -> None:
    if values.plot and not values.plot.lower().endswith(".png"):
        raise OutputError(f"--plot: {values.plot} is not named as a PNG file; use e.g. data.png")
    for flag, is_own in (("json", _is_own_json), ("plot", is_own_image)):
        if values[flag].value:
            check_replaceable(pathlib.Path(values[flag].value), is_own, flag)


def _is_own_json(path: pathlib.Path) -> bool:
    try:
        return set(json.loads(path.read_text(encoding="utf-8"))) == _KEYS
    except (OSError, ValueError, TypeError):
        return False


def _write(flag: str, path: str, content: str | bytes) -> None:
    data = content.encode() if isinstance(content, str) else content
    with replacing_output(pathlib.Path(path), flag) as partial:
        partial.write_bytes(data)
    print(f"Written to {path}")


def _table(split: str, summary: "DataSummary") -> list[str]:
    """Format the statistics of a split as lines."""
    from efficientdet_tf.data.statistics import RANGE, SIZES

    numbers = summary.to_dict()
    per_image = numbers["objects_per_image"]
    height, width = summary.image_size
    lines = [
        f"{split}: {numbers['images']} images, {numbers['images_without_objects']} of them "
        "without objects",
        f"{numbers['objects']} objects, {_number(per_image['mean'])} an image on average; besides "
        f"{numbers['crowd_regions']} crowd regions, {numbers['ignored_objects']} ignored objects; "
        f"{numbers['difficult_objects']} marked as difficult",
        "",
        _row("", tuple(RANGE)),
        *(
            _row(label, [_number(numbers[name][key]) for key in RANGE])
            for label, name in (
                ("image width", "image_width"),
                ("image height", "image_height"),
                ("image width / height", "image_aspect"),
                ("objects per image", "objects_per_image"),
                ("object size, pixels", "object_size"),
                (f"object size at {width} x {height}", "object_size_at_input"),
                ("object width / height", "object_aspect"),
            )
        ),
        "",
        _row("objects", SIZES),
        _row("original", _shares(numbers["object_size"])),
        _row(f"at {width} x {height}", _shares(numbers["object_size_at_input"])),
        "",
        _row("class", ("id", "images", "objects", "share")),
    ]
    for item in sorted(numbers["classes"], key=lambda item: -item["objects"]):
        cells = (item["id"], item["images"], item["objects"], f"{item['share']:.1%}")
        lines.append(_row(item["name"], cells))
    return lines


def _shares(values: dict) -> list[str]:
    """Format the numbers of small, medium and large objects with their shares."""
    counts = [values[name] for name in ("small", "medium", "large")]
    return [f"{count} ({count / max(1, sum(counts)):.0%})" for count in counts]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}" if value < 1000 else f"{value:.0f}"


def _row(label: str, cells: tuple | list) -> str:
    return f"{label:<28}" + "".join(f"{cell!s:>12}" for cell in cells)


COMMAND = command_line.Command(
    "data", "Print numbers of a data set: classes, sizes, aspect ratios.", define_flags, stats
)

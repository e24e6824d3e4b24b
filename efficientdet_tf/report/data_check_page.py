"""Page of the check of data sets: each kind of fault with thumbnails."""

import itertools
import pathlib
from collections.abc import Mapping, Sequence

from efficientdet_tf.data.checks.checked_set import CheckedImage
from efficientdet_tf.data.checks.result import CheckResult
from efficientdet_tf.data.faults import KINDS, Fault
from efficientdet_tf.report.document import data_uri, document, section
from efficientdet_tf.report.fault_thumbnails import thumbnail
from efficientdet_tf.visualization.elements import Element, element, number, table

# Most faults of a kind that the page shows, and the most of those without a thumbnail.
MOST_SHOWN = 24
# The images of each split by name.
Images = Mapping[str, Mapping[str, CheckedImage]]
_NAMES = {"error": "errors", "warning": "warnings", "note": "notes"}


def data_check_page(result: CheckResult, json_name: str) -> str:
    """Render the page: counts, then each kind of fault with thumbnails.

    Args:
      result: result of the check.
      json_name: name of the file beside the page that has every fault.
    """
    severities = result.severities()
    num_images = sum(len(part.images) for part in result.sets)
    tiles = [(_NAMES[name], f"{count:,}") for name, count in severities.items()]
    tiles += [("images", f"{num_images:,}")]
    tiles += [("objects", f"{sum(part.num_objects for part in result.sets):,}")]
    header = element(
        "header",
        element("h1", "Check of the data"),
        *(
            element("p", f"{part.split}: {part.source}, {len(part.images):,} images")
            for part in result.sets
        ),
        element(
            "div",
            *(element("div", element("b", value), element("span", name)) for name, value in tiles),
            class_="tiles",
        ),
        element("p", f"Every fault is in {json_name}, at most {MOST_SHOWN} of a kind are here."),
    )
    images = {part.split: part.by_name for part in result.sets}
    kinds = [_kind(kind, count, result, images) for kind, count in result.counts().items()]
    return document("Check of the data", header, _summary(result), *kinds)


def _summary(result: CheckResult) -> Element:
    rows = [
        [
            element("td", element("a", KINDS[kind].title, href=f"#{kind}")),
            element("td", KINDS[kind].severity, class_="word"),
            number(f"{count:,}"),
            KINDS[kind].proposal,
        ]
        for kind, count in result.counts().items()
    ]
    if not rows:
        return section("Faults", element("p", "None was found."))
    return section("Faults", table(["Fault", "Severity", "Count", "Proposal"], rows, "faults"))


def _kind(kind: str, count: int, result: CheckResult, images: Images) -> Element:
    found = [(split, fault) for split, fault in result.faults if fault.kind == kind]
    cards: list[Element] = []
    lines: list[str] = []
    for split, fault in itertools.islice(found, MOST_SHOWN):
        drawn = _thumbnails(fault, images, split)
        if drawn:
            cards.append(_card(fault, drawn))
        else:
            lines.append(str(fault))
    parts = [element("p", f"{KINDS[kind].severity}: {KINDS[kind].proposal}.", class_="quiet")]
    if cards:
        parts.append(element("div", *cards, class_="thumbnails"))
    if lines:
        parts.append(element("ul", *(element("li", line) for line in lines)))
    if count > MOST_SHOWN:
        parts.append(element("p", f"... and {count - MOST_SHOWN:,} more.", class_="quiet"))
    made = section(f"{KINDS[kind].title}: {count:,}", *parts)
    made.set("id", kind)
    return made


def _thumbnails(fault: Fault, images: Images, split: str) -> list[Element]:
    """Make the thumbnail of the fault's image, and that of the image it equals."""
    made = []
    own = images.get(split, {}).get(fault.image)
    others = [each[fault.other] for each in images.values() if fault.other in each]
    for checked in [own, *others[:1]]:
        if checked is not None and (drawn := thumbnail(checked, fault)):
            made.append(element("img", src=data_uri(drawn), alt=checked.image.name, loading="lazy"))
    return made


def _card(fault: Fault, drawn: Sequence[Element]) -> Element:
    # The folders are in the title, and in the JSON file.
    folders = {f"{pathlib.Path(path).parent}/" for path in (fault.file, fault.image, fault.other)}
    text = str(fault)
    for folder in sorted(folders - {"./"}, key=len, reverse=True):
        text = text.replace(folder, "")
    name = pathlib.Path(fault.image).name
    text += "" if name in text else f" ({name})"
    caption = element("figcaption", text, title=str(fault))
    return element("figure", element("div", *drawn, class_="pair"), caption, class_="card")

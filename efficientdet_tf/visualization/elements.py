"""HTML and SVG as element trees, so that text is always escaped."""

import xml.etree.ElementTree
from collections.abc import Sequence
from typing import Any

Element = xml.etree.ElementTree.Element


def element(tag: str, *children: "Element | str", **attributes: object) -> Element:
    """Make an element with its children.

    Args:
      tag: tag name.
      *children: elements and text; text is escaped when written.
      **attributes: attributes; `class_` is class, `stroke_width` stroke-width; numbers
        are written with at most two decimals.
    """
    names = {name: name.rstrip("_").replace("_", "-") for name in attributes}
    made = Element(tag, {names[name]: _text(value) for name, value in attributes.items()})
    for child in children:
        if isinstance(child, Element):
            made.append(child)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + str(child)
        else:
            made.text = (made.text or "") + str(child)
    return made


def table(head: list[str], rows: Sequence[Sequence[Any]], class_: str = "") -> Element:
    """Make a table; cells are text, `number` or `bar`."""
    cells = [element("th", name) for name in head]
    body = [element("tr", *(c if _is_cell(c) else element("td", c) for c in row)) for row in rows]
    made = element(
        "table", element("thead", element("tr", *cells)), element("tbody", *body), class_=class_
    )
    return element("div", made, class_="scroll")


def number(text: str) -> Element:
    """Make a right-aligned cell."""
    return element("td", text, class_="number")


def bar(share: float, text: str, color: str = "c0") -> Element:
    """Make a cell with a bar and a text.

    Args:
      share: length of the bar as a fraction of the width, 0..1; no bar for NaN.
      text: text beside the bar.
      color: colour of the page, "c0" to "c9".
    """
    width = 100 * min(1.0, max(0.0, share)) if share == share else 0
    fill = element("i", style=f"width:{width:.1f}%;background:var(--{color})")
    return element("td", element("span", fill, class_="bar"), element("b", text), class_="bars")


def _is_cell(child: object) -> bool:
    return isinstance(child, Element) and child.tag == "td"


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return str(value)


def to_html(made: Element) -> str:
    """Serialise an `html` element to a document; what is not UTF-8 becomes question marks."""
    text = xml.etree.ElementTree.tostring(made, "unicode", method="html")
    return "<!DOCTYPE html>\n" + text.encode("utf-8", "replace").decode()

"""Pages that are one file: style and images inside, no scripts, light and dark mode."""

import base64
import io
import pathlib

import PIL.Image

from efficientdet_tf.visualization.elements import Element, element, to_html

_STYLE = pathlib.Path(__file__).with_name("page.css")
# Forbids loading external resources and running scripts.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def document(title: str, *parts: Element) -> str:
    """Render an HTML document.

    Args:
      title: title of the window.
      *parts: elements of the page, from top to bottom.
    """
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", **{"http-equiv": "Content-Security-Policy"}, content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", _STYLE.read_text(encoding="utf-8")),
    )
    return to_html(element("html", head, element("body", element("main", *parts)), lang="en"))


def section(title: str, *parts: Element) -> Element:
    """Make a section with a heading."""
    return element("section", element("h2", title), *parts)


def data_uri(image: PIL.Image.Image) -> str:
    """Encode an RGB image as JPEG for an `img` element."""
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=80)
    return _data_uri(encoded.getvalue(), "jpeg")


def png_uri(content: bytes) -> str:
    """Encode a PNG file for an `img` element."""
    return _data_uri(content, "png")


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"

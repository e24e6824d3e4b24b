"""Export to a web page that detects in the browser, with its runtime beside it."""

import base64
import hashlib
import html
import json
import pathlib
import shutil

from efficientdet_tf import anchors
from efficientdet_tf.config import Config
from efficientdet_tf.data.records import LabelMap
from export import litert_js
from export.tflite import TFLiteExporter

_PAGE = pathlib.Path(__file__).parent / "web_page"
# Written besides the page and the runtime.
MODEL, _DESCRIPTION, _ANCHORS = "model.tflite", "model.json", "anchors.bin"


def export(
    exporter: TFLiteExporter, config: Config, label_map: LabelMap, path: pathlib.Path
) -> pathlib.Path:
    """Write a folder for any web server: `index.html`, the model and LiteRT.js.

    The page detects in images that are chosen, dropped or filmed, with the preprocessing and NMS
    of the config. Its content security policy lets it contact no other host. `detector.js` is a
    module for other pages. Besides, the folder has

    - `model.tflite`, without NMS, in float32;
    - `model.json`: class names, input and the config's section `detection`;
    - `anchors.bin`: float32 [N, 4], little-endian, ymin, xmin, ymax, xmax in network pixels.

    Args:
      exporter: writer of the model.
      config: settings; `model`, `anchors` and `detection` are read.
      label_map: classes of the model.
      path: folder to create; it must not exist.

    Returns:
      `path`.

    Raises:
      DownloadError: if LiteRT.js is not in the cache folder and cannot be downloaded.
    """
    archives = litert_js.fetch()
    shutil.copytree(_PAGE, path)
    litert_js.unpack(archives, path / "litert")
    exporter.write(path / MODEL, with_nms=False)
    (path / _DESCRIPTION).write_text(_describe(config, label_map), encoding="utf-8")
    (path / _ANCHORS).write_bytes(anchors.from_config(config).astype("<f4").tobytes())
    page = path / "index.html"
    page.write_text(_fill(page.read_text(encoding="utf-8"), config, label_map), encoding="utf-8")
    return path


def is_own(path: pathlib.Path) -> bool:
    """Whether a folder was written by `export` and contains nothing else."""
    known = {file.name for file in _PAGE.iterdir()} | {MODEL, _DESCRIPTION, _ANCHORS, "litert"}
    return (path / _DESCRIPTION).is_file() and {file.name for file in path.iterdir()} <= known


def _describe(config: Config, label_map: LabelMap) -> str:
    model = config.model
    return json.dumps(
        {
            "classes": label_map.names,
            "input": {
                "height": model.image_size[0],
                "width": model.image_size[1],
                "resize": model.resize,
                "padding": model.pixel_mean,
            },
            "detection": config.to_dict()["detection"],
        },
        ensure_ascii=False,
        indent=1,
    )


def _fill(page: str, config: Config, label_map: LabelMap) -> str:
    """Fill in the title, the classes, and the import map with the hash that permits it."""
    import_map = json.dumps({"imports": litert_js.MODULES})
    digest = base64.b64encode(hashlib.sha256(import_map.encode()).digest()).decode()
    classes = ", ".join(label_map.names[:20]) + (", …" if len(label_map) > 20 else "")
    values = {
        "import_map_hash": digest,
        "import_map": import_map,
        "title": f"Detector of {len(label_map)} classes",
        "about": html.escape(f"{config.model.name}: {classes}."),
    }
    for name, value in values.items():
        page = page.replace(f"{{{name}}}", value)
    return page

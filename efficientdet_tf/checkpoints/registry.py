"""Registry of pretrained weights: names, sources and licences."""

import dataclasses
import pathlib

from efficientdet_tf.errors import UserError
from keras_layers.options import did_you_mean


class UnknownWeights(UserError):
    """Weights that are neither a known name nor a path."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """Named weights.

    Args:
      name: name of the weights.
      kind: their loader, a key of `pretrained.LOADERS`.
      licence: licence as stated by the publisher.
      model: row of the model table that the weights belong to; None if they exist
        for every model. Default None.
      url: URL of a .tar.gz file; None if the loader knows it. Default None.
      sha256: SHA-256 of the file in hexadecimal; None if unpublished. Default None.
    """

    name: str
    kind: str
    licence: str
    model: str | None = None
    url: str | None = None
    sha256: str | None = None


def _trained_on_coco(model: str, file: str) -> Entry:
    """Describe a checkpoint of google/automl: 90 COCO classes, links in its README."""
    address = f"https://storage.googleapis.com/cloud-tpu-checkpoints/efficientdet/{file}"
    return Entry(model, "published", "Apache-2.0", model, address)


# Without lite3x, as the README's link to it is broken.
ENTRIES = {
    entry.name: entry
    for entry in (
        _trained_on_coco("efficientdet-d0", "coco2/efficientdet-d0.tar.gz"),
        _trained_on_coco("efficientdet-d1", "coco2/efficientdet-d1.tar.gz"),
        _trained_on_coco("efficientdet-d2", "coco2/efficientdet-d2.tar.gz"),
        _trained_on_coco("efficientdet-d3", "coco2/efficientdet-d3.tar.gz"),
        _trained_on_coco("efficientdet-d4", "coco2/efficientdet-d4.tar.gz"),
        _trained_on_coco("efficientdet-d5", "coco2/efficientdet-d5.tar.gz"),
        _trained_on_coco("efficientdet-d6", "coco2/efficientdet-d6.tar.gz"),
        _trained_on_coco("efficientdet-d7", "coco2/efficientdet-d7.tar.gz"),
        _trained_on_coco("efficientdet-d7x", "coco2/efficientdet-d7x.tar.gz"),
        _trained_on_coco("efficientdet-lite0", "coco/efficientdet-lite0.tgz"),
        _trained_on_coco("efficientdet-lite1", "coco/efficientdet-lite1.tgz"),
        _trained_on_coco("efficientdet-lite2", "coco/efficientdet-lite2.tgz"),
        _trained_on_coco("efficientdet-lite3", "coco/efficientdet-lite3.tgz"),
        _trained_on_coco("efficientdet-lite4", "coco/efficientdet-lite4.tgz"),
        Entry("imagenet", "backbone", "Apache-2.0"),
    )
}


def find(source: str) -> Entry | pathlib.Path:
    """Resolve `source` to named weights, else to a path.

    Args:
      source: a key of `ENTRIES`, a file, a folder, or the prefix of a
        checkpoint's files. A folder with the name of an entry is `./name`.

    Raises:
      UnknownWeights: if `source` is none of these.
    """
    if source in ENTRIES:
        return ENTRIES[source]
    path = pathlib.Path(source)
    if path.exists() or path.with_name(path.name + ".index").exists():
        return path
    raise UnknownWeights(f"{source}: no such file, folder or name{did_you_mean(source, ENTRIES)}")

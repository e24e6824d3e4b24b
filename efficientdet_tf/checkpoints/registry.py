"""Trained weights by name: what they are, and where they come from."""

import dataclasses
import pathlib

from efficientdet_tf.config.declaration import did_you_mean
from efficientdet_tf.errors import UserError


class UnknownWeights(UserError):
    """Weights that are neither a known name nor a path."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """Weights that have a name.

    Args:
      name: what they are asked for by.
      kind: how they are loaded, a key of `pretrained.LOADERS`.
      licence: as their publisher states it.
      model: row of the model table that they are of; None where the name is for
        those of each model.
      url: of a .tar.gz file; None where the loader knows where they are.
      sha256: of the file in hexadecimal; None where nobody has published it.
    """

    name: str
    kind: str
    licence: str
    model: str | None = None
    url: str | None = None
    sha256: str | None = None


def _trained_on_coco(model: str, file: str) -> Entry:
    """A checkpoint of google/automl: 90 COCO classes, links in its README."""
    address = f"https://storage.googleapis.com/cloud-tpu-checkpoints/efficientdet/{file}"
    return Entry(model, "published", "Apache-2.0", model, address)


# The README's link to lite3x is broken, so it is not here.
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
    """What `source` means: a name first, else a path.

    Args:
      source: a key of `ENTRIES`, a file, a folder, or the prefix of a
        checkpoint's files. A folder named as an entry is meant by `./name`.

    Raises:
      UnknownWeights: when it is none of these.
    """
    if source in ENTRIES:
        return ENTRIES[source]
    path = pathlib.Path(source)
    if path.exists() or path.with_name(path.name + ".index").exists():
        return path
    raise UnknownWeights(f"{source}: no such file, folder or name{did_you_mean(source, ENTRIES)}")

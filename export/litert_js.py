"""LiteRT.js, the runtime of exported web pages, from the npm registry."""

import os
import pathlib
import shutil
import subprocess
import tarfile
from typing import NamedTuple

from efficientdet_tf.checkpoints.download import fetch_file
from efficientdet_tf.errors import UserError

VERSION = "2.5.3"
_REGISTRY = "https://registry.npmjs.org"


class _Package(NamedTuple):
    """Package of the registry: its name, SHA-256, and {file in it: file to write}."""

    name: str
    sha256: str
    files: dict[str, str]


_PACKAGES = (
    _Package(
        "core",
        "a97660833e9e7e1063c95e12016718881240b14f7438728a2f62785e912d30fd",
        {"dist/index.js": "index.js"}
        | {
            f"wasm/litert_wasm{kind}_internal.{suffix}": f"wasm/litert_wasm{kind}_internal.{suffix}"
            # The second is for browsers without relaxed SIMD.
            for kind in ("", "_compat")
            for suffix in ("js", "wasm")
        },
    ),
    _Package(
        "wasm-utils",
        "ce2a1f8379c067be49e59752e5a7f40db6be09f6e497f0f11e59f17b515366a7",
        {"dist/index.js": "wasm-utils.js"},
    ),
)
# Bare names of modules in `index.js`, and ours for it, as files beside the page.
MODULES = {
    "@litertjs/core": "./litert/index.js",
    "@litertjs/wasm-utils": "./litert/wasm-utils.js",
}


def fetch() -> list[pathlib.Path]:
    """Return the archives of the packages in the cache folder, downloaded if necessary.

    The registry is that of npm's own settings, where npm is installed.

    Raises:
      DownloadError: if a download fails; the message says where to put the file by hand.
    """
    registry = _registry()
    return [
        fetch_file(
            f"{registry}/@litertjs/{package.name}/-/{package.name}-{VERSION}.tgz", package.sha256
        )
        for package in _PACKAGES
    ]


def unpack(archives: list[pathlib.Path], folder: pathlib.Path) -> None:
    """Write the files that a page needs, and where they are from.

    Args:
      archives: result of `fetch`.
      folder: folder to create.
    """
    (folder / "wasm").mkdir(parents=True)
    for package, path in zip(_PACKAGES, archives):
        with tarfile.open(path) as archive:
            for source, target in package.files.items():
                member = archive.extractfile(f"package/{source}")
                assert member is not None, source
                (folder / target).write_bytes(member.read())
    (folder / "ORIGIN.txt").write_text(
        f"LiteRT.js {VERSION} (npm packages @litertjs/core and @litertjs/wasm-utils), Apache-2.0\n"
        "https://github.com/google-ai-edge/LiteRT\n",
        encoding="utf-8",
    )


def _registry() -> str:
    """Return the address of the npm registry without a slash at its end."""
    address = os.environ.get("NPM_CONFIG_REGISTRY", "")
    if not address and shutil.which("npm"):
        command = ["npm", "config", "get", "registry"]
        address = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    address = address or _REGISTRY
    if not address.startswith(("http://", "https://")):
        raise UserError(f"NPM_CONFIG_REGISTRY: {address!r} is not the address of an npm registry")
    return address.rstrip("/")

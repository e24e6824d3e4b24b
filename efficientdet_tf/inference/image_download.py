"""Download of images by URL, into memory."""

import http.client
import urllib.error
import urllib.parse
import urllib.request

from efficientdet_tf import __version__
from efficientdet_tf.data.image_files import ImageError

_SECONDS = 30
_LARGEST = 1 << 26
# Some hosts refuse Python's own name.
_HEADERS = {"User-Agent": f"efficientdet-tf/{__version__}"}


def download_image(url: str, largest: int = _LARGEST) -> bytes:
    """Read the bytes of a file at an address.

    Args:
      url: http:// or https:// address.
      largest: largest accepted size in bytes. Default 64 MiB.

    Raises:
      ImageError: when it cannot be read, or is larger; the message names the address.
    """
    try:
        # Letters beyond ASCII, and spaces; what is quoted stays so.
        quoted = urllib.parse.quote(url, safe="%/:=&?~#+!$,;'@()*[]")
        request = urllib.request.Request(quoted, headers=_HEADERS)
        with urllib.request.urlopen(request, timeout=_SECONDS) as response:
            content = response.read(largest + 1)
    except urllib.error.HTTPError as error:
        raise ImageError(f"{url}: {error.code}: {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ImageError(f"{url}: {_reason(error)}") from error
    if len(content) > largest:
        raise ImageError(f"{url}: larger than {largest} bytes, the limit of a download")
    return content


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    text = getattr(reason, "strerror", None) or str(reason) or type(error).__name__
    return text.splitlines()[0]

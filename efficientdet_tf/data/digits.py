"""Built-in data set: handwritten digits on photographs, generated on demand.

The sources are installed with scikit-learn: `load_digits` (1797 real handwritten
digits of 8 x 8 pixels) and the two photographs of `load_sample_images`. The
digits are scaled smoothly to 20 to 160 pixels and drawn onto crops of the
photographs, one to eight per image, without heavy overlap. Training and
validation share no digit and no region of a photograph.
"""

import dataclasses
import io
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from efficientdet_tf.boxes import areas
from efficientdet_tf.data.records import DataError, DetectionData, LabelMap, Record

LABEL_MAP = LabelMap(ids=tuple(range(10)), names=tuple("0123456789"))

_DEFAULT_NUM_IMAGES = {"train": 1200, "val": 160}
# Every fifth digit of the source is for validation.
_VAL_DIGIT_STRIDE = 5
# Columns of the photographs (640 wide) that each split may crop.
_COLUMNS = {"train": slice(0, 400), "val": slice(400, 640)}
# Range of an image's sides, in pixels.
_SIDES = (224, 288)
# Photograph pixels in one image pixel; the widest crop just fits the narrower region.
_ZOOM = (0.55, 0.83)
# Range of a digit's scaled size in pixels, and of the number of digits an image.
_DIGIT_SIZES = (20.0, 160.0)
_DIGITS_PER_IMAGE = (1, 8)
# Largest fraction of the smaller of two boxes that the other may cover.
_MAX_OVERLAP = 0.05
_PLACING_ATTEMPTS = 20
# Least difference in brightness (0..255) between ink and background.
_MIN_CONTRAST = 90


@dataclasses.dataclass(frozen=True)
class Sources:
    """Digits and photographs of one split.

    Attributes:
      digits: float32 [n, 8, 8], ink from 0 to 1.
      classes: int32 [n], class indices, 0..9.
      photographs: uint8 [height, width, 3] arrays.
    """

    digits: np.ndarray
    classes: np.ndarray
    photographs: tuple[np.ndarray, ...]


def load(split: str, seed: int = 0, num_images: int | None = None) -> DetectionData:
    """Generate the built-in data set, deterministically and in a few seconds.

    Args:
      split: "train" or "val".
      seed: seed of all random draws. Default 0.
      num_images: number of images. Default 1200 for training, 160 for validation.

    Returns:
      Records whose images are JPEG files in memory of about 320 x 320 pixels;
      classes "0" to "9" with category ids 0 to 9.
    """
    split_sources = sources(split)
    count = _DEFAULT_NUM_IMAGES[split] if num_images is None else num_images

    def make(image_id: int) -> Record:
        # Separate seed for each image: a larger number leaves the first images unchanged.
        rng = np.random.default_rng([seed, sorted(_COLUMNS).index(split), image_id])
        return _make_record(image_id, split, split_sources, rng)

    # Pillow scales and encodes outside the interpreter's lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        records = list(pool.map(make, range(1, count + 1)))
    return DetectionData(records=records, label_map=LABEL_MAP, source=f"digits ({split})")


def sources(split: str) -> Sources:
    """Return the digits and photograph regions of a split; the splits share none."""
    if split not in _COLUMNS:
        raise DataError(f"digits: unknown split {split!r}; use 'train' or 'val'")
    # scikit-learn takes a second to import, and only this data set needs it.
    from sklearn import datasets

    digits = datasets.load_digits()
    for_val = np.arange(len(digits.target)) % _VAL_DIGIT_STRIDE == 0
    chosen = for_val if split == "val" else ~for_val
    photographs = datasets.load_sample_images().images
    return Sources(
        digits=digits.images[chosen].astype(np.float32) / 16.0,
        classes=digits.target[chosen].astype(np.int32),
        photographs=tuple(photograph[:, _COLUMNS[split]] for photograph in photographs),
    )


def _make_record(
    image_id: int, split: str, split_sources: Sources, rng: np.random.Generator
) -> Record:
    image = _background(split_sources.photographs, rng)
    placed: list[tuple[int, int, int, int]] = []
    classes: list[int] = []
    for _ in range(rng.integers(*_DIGITS_PER_IMAGE, endpoint=True)):
        which = rng.integers(len(split_sources.classes))
        ink = _scaled_ink(split_sources.digits[which], rng.uniform(*_DIGIT_SIZES))
        box = _free_place(ink.shape, image.shape, placed, rng)
        if box is not None:
            _write(image, ink, box, rng)
            placed.append(box)
            classes.append(split_sources.classes[which])
    boxes = np.array(placed, np.float32).reshape(-1, 4)
    height, width = image.shape[:2]
    return Record(
        image_id=image_id,
        image=_jpeg(image),
        height=height,
        width=width,
        boxes=boxes,
        classes=np.array(classes, np.int32),
        is_crowd=np.zeros(len(boxes), bool),
        area=areas(boxes),
        name=f"digits ({split}) image {image_id}",
        apply_exif=False,
    )


def _background(photographs: tuple[np.ndarray, ...], rng: np.random.Generator) -> np.ndarray:
    """Draw a randomly scaled and flipped crop: float32 [height, width, 3], 0..255."""
    photograph = photographs[rng.integers(len(photographs))]
    size = rng.integers(*_SIDES, size=2, endpoint=True)
    crop = (size * rng.uniform(*_ZOOM)).astype(int)
    top, left = (rng.integers(room, endpoint=True) for room in photograph.shape[:2] - crop)
    patch = photograph[top : top + crop[0], left : left + crop[1]]
    if rng.random() < 0.5:
        patch = patch[:, ::-1]
    scaled = Image.fromarray(patch).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.asarray(scaled, np.float32)


def _scaled_ink(digit: np.ndarray, size: float) -> np.ndarray:
    """Return the opacity of a digit's ink at `size` pixels, cropped: float32 [h, w], 0..1."""
    # Room around the digit lets strokes at its border end softly.
    margin = 2
    padded = Image.fromarray(np.pad(digit, margin))
    side = round(size * padded.width / digit.shape[0])
    smooth = np.asarray(padded.resize((side, side), Image.Resampling.BICUBIC))
    # A steeper edge than interpolation gives, but still a soft one.
    opacity = np.clip((smooth - 0.35) / 0.3, 0.0, 1.0)
    inked = opacity >= 0.5
    rows, columns = np.flatnonzero(inked.any(axis=1)), np.flatnonzero(inked.any(axis=0))
    return opacity[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _free_place(
    ink_shape: tuple, image_shape: tuple, taken: list, rng: np.random.Generator
) -> tuple[int, int, int, int] | None:
    """Find a box (ymin, xmin, ymax, xmax) of that shape clear of `taken`; None if not found."""
    for _ in range(_PLACING_ATTEMPTS):
        top = int(rng.integers(image_shape[0] - ink_shape[0]))
        left = int(rng.integers(image_shape[1] - ink_shape[1]))
        box = (top, left, top + ink_shape[0], left + ink_shape[1])
        if all(_overlap(box, other) <= _MAX_OVERLAP for other in taken):
            return box
    return None


def _overlap(box: tuple, other: tuple) -> float:
    """Return the fraction of the smaller box that the other covers."""
    height = min(box[2], other[2]) - max(box[0], other[0])
    width = min(box[3], other[3]) - max(box[1], other[1])
    smaller = min((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other))
    return max(height, 0) * max(width, 0) / smaller


def _write(image: np.ndarray, ink: np.ndarray, box: tuple, rng: np.random.Generator) -> None:
    """Blend the ink into `image` in place, in a contrasting colour."""
    patch = image[box[0] : box[2], box[1] : box[3]]
    under = patch.mean()
    if under > 127.5:
        brightness = rng.uniform(0.0, under - _MIN_CONTRAST)
    else:
        brightness = rng.uniform(under + _MIN_CONTRAST, 255.0)
    tint = rng.normal(scale=30.0, size=3)
    colour = np.clip(brightness + tint - tint.mean(), 0.0, 255.0)
    patch += ink[:, :, None] * (colour - patch)


def _jpeg(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray((image + 0.5).astype(np.uint8)).save(file, "JPEG", quality=95)
    return file.getvalue()

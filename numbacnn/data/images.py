"""Image files to arrays, and resizing.

All pixels are float32 in [0, 1], whatever the file stores: 8 bits are divided by 255, 16 bits by 65535.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..image_files import opened

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"))
"""File names that count as images when a folder is searched, in lower case."""

GAP = 2  # how many times as large as asked for an image has to stay when it is decoded at less than its size

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_GREY_MODES = frozenset(("1", "L", "LA", "La", "F"))


def read_image(path: str | os.PathLike, channels: int | None = None, size: tuple[int, int] | None = None) -> NDArray[np.float32]:
    """Read an image file to float32 ``(height, width, channels)`` in [0, 1].

    ``channels`` 1 converts to grey (ITU-R 601 luma), 3 to red, green, blue (transparency is dropped), 4 adds alpha; None gives 1
    for grey files and 3 for all others. ``size`` ``(height, width)`` resizes bilinearly, with antialiasing where it shrinks. The
    camera's EXIF orientation is applied; of an animation the first frame is read. A JPEG file much larger than ``size`` is decoded at a
    half, a quarter or an eighth of its own.
    Raises DataError for a file that is missing, damaged or no image.
    """
    if channels is not None and channels not in _MODES:
        raise ConfigError(f"An image has 1, 3 or 4 channels; {channels} were asked for.")
    size = None if size is None else checked_size(size)
    with opened(path) as image:
        channels = channels or native_channels(image)
        if size is not None:
            # A JPEG decoder gives a half, a quarter or an eighth of each side for a fraction of the work: no less than twice what is asked
            # for, so that resizing still has the last word (as Pillow's thumbnails do). The longer side, as EXIF may turn the image.
            image.draft(image.mode, (GAP * max(size), GAP * max(size)))
        return _to_array(image, channels, size)


def count_channels(path: str | os.PathLike) -> int:
    """1 for a grey image file, else 3. Reads only the file's header."""
    with opened(path) as image:
        return native_channels(image)


def image_size(path: str | os.PathLike) -> tuple[int, int]:
    """``(height, width)`` of an image file once it stands upright. Reads only the file's header."""
    with opened(path) as image:
        width, height = image.size
        turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientations 5 to 8 swap rows and columns
    return (width, height) if turned else (height, width)


def native_channels(image: Image.Image) -> int:
    return 1 if image.mode in _GREY_MODES or image.mode.startswith("I") else 3


def resize(images: NDArray[np.floating], size: tuple[int, int]) -> NDArray[np.floating]:
    """Resize ``(n, height, width, channels)`` to ``size`` ``(height, width)`` bilinearly, with antialiasing where it shrinks.

    Bilinear resizing is linear in the pixels of each axis, so it is two matrix products, with Pillow's own coefficients."""
    n, height, width, channels = images.shape
    rows, columns = (_resizing_matrix(old, new).astype(images.dtype) for old, new in zip((height, width), size, strict=True))
    tall = np.matmul(rows, images.reshape(n, height, width * channels)).reshape(n, size[0], width, channels)
    if channels == 1:  # one product per image instead of one per row
        return np.matmul(tall[..., 0], columns.T)[..., None]
    return np.matmul(columns, tall)


@functools.lru_cache(maxsize=32)
def _resizing_matrix(old: int, new: int) -> NDArray[np.float32]:
    """``(new, old)`` coefficients: what resizing makes of the unit vectors."""
    from PIL import Image

    return np.asarray(Image.fromarray(np.eye(old, dtype=np.float32)).resize((old, new), Image.Resampling.BILINEAR))


def checked_size(size: Any) -> tuple[int, int]:
    """``(height, width)`` as two positive ints. Raises ConfigError."""
    try:
        height, width = size
        if height == int(height) > 0 and width == int(width) > 0:
            return int(height), int(width)
    except (TypeError, ValueError):
        pass
    raise ConfigError(f"A size of images is (height, width), two positive integers, not {size!r}.")


def _to_array(image: Image.Image, channels: int, size: tuple[int, int] | None) -> NDArray[np.float32]:
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        return _deep_grey_to_array(image, channels, size)
    image = _resized(image.convert(_MODES[channels]), size)
    pixels = np.asarray(image, np.float32).reshape(image.height, image.width, channels)
    return pixels / np.float32(255.0)


def _deep_grey_to_array(image: Image.Image, channels: int, size: tuple[int, int] | None) -> NDArray[np.float32]:
    """16-bit integers, which Pillow would clip to 8 bits instead of scaling them, and floating-point numbers, taken to be in [0, 1]."""
    from PIL import Image

    pixels = np.asarray(image, np.float32)
    if image.mode != "F":
        pixels = pixels / np.float32(65535.0)
    grey = np.asarray(_resized(Image.fromarray(pixels), size)).clip(0.0, 1.0)
    planes = [grey] * min(channels, 3) + [np.ones_like(grey)] * (channels == 4)
    return np.stack(planes, axis=2)


def _resized(image: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    from PIL import Image

    return image if size is None else image.resize((size[1], size[0]), Image.Resampling.BILINEAR)

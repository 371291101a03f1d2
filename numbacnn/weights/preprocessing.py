"""From a photograph to what a network was trained on: resized, cropped and scaled in the way that goes with its weights."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigError, DataError
from ..image_files import opened

if TYPE_CHECKING:
    from PIL import Image

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
_MODES = {1: "L", 3: "RGB"}


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The shorter side of an image is resized to ``size`` pixels with an ``interpolation`` of :data:`INTERPOLATIONS` (antialiased), the
    middle ``crop`` (height, width; or one number for both) is cut out, and pixels ``p`` in [0, 1] become ``(p - mean) / std``, with a
    mean and a standard deviation for each channel: one for grey, three for red, green and blue.

    Raises ConfigError for options that cannot be."""

    size: int
    crop: tuple[int, int]
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        crop = (self.crop, self.crop) if isinstance(self.crop, int) else self.crop
        try:
            object.__setattr__(self, "crop", tuple(map(int, crop)))
            object.__setattr__(self, "mean", tuple(map(float, self.mean)))
            object.__setattr__(self, "std", tuple(map(float, self.std)))
            possible = int(self.size) == self.size > 0 and len(self.crop) == 2 and min(self.crop) > 0
            possible = possible and len(self.mean) == len(self.std) and len(self.mean) in _MODES and min(self.std) > 0
        except (TypeError, ValueError, OverflowError):
            possible = False
        if not possible or self.interpolation not in INTERPOLATIONS:
            raise ConfigError(
                f"A preprocessing takes a size and a crop in pixels, an interpolation of {', '.join(INTERPOLATIONS)}, and a mean and a "
                f"positive standard deviation for each of 1 or 3 channels; it was given {self}."
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of what it makes of an image: height, width, channels."""
        return (*self.crop, len(self.mean))

    def fitted(self, height: int, width: int, channels: int) -> Preprocessing | None:
        """The same for a network that takes images of another size: as much is cut off, in proportion; and for grey images by the mean
        of the colours' numbers. None for a number of channels that image files don't have."""
        if channels not in _MODES:
            return None
        changed: dict[str, Any] = {}
        if (height, width) != self.crop:
            changed.update(size=round(max(height, width) * self.size / max(self.crop)), crop=(height, width))
        if channels != len(self.mean):
            changed.update(mean=(float(np.mean(self.mean)),) * channels, std=(float(np.mean(self.std)),) * channels)
        return dataclasses.replace(self, **changed)

    def __call__(self, image: Any) -> np.ndarray:
        """float32 of :attr:`shape` from an image file or an array: uint8 ``(height, width, channels)``, or ``(height, width)`` of grey.
        Grey becomes colour and colour grey as the network wants it; alpha is dropped.

        Raises DataError for a file or an array that is no image."""
        if isinstance(image, str | os.PathLike):
            with opened(image) as file:
                picture = _pixels(_upright(file), len(self.mean))
        else:
            picture = _pixels(_from_array(image), len(self.mean))
        pixels = np.asarray(self._cropped(self._resized(picture)), np.float32).reshape(self.shape) / np.float32(255)
        return (pixels - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)

    def _resized(self, image: Image.Image) -> Image.Image:
        from PIL import Image

        shorter, longer = self.size, max(1, self.size * max(image.size) // min(image.size))
        size = (shorter, longer) if image.width <= image.height else (longer, shorter)
        return image.resize(size, Image.Resampling[self.interpolation.upper()])

    def _cropped(self, image: Image.Image) -> Image.Image:
        """The middle, with black around it where the image is smaller."""
        height, width = self.crop
        left, top = round((image.width - width) / 2), round((image.height - height) / 2)
        return image.crop((left, top, left + width, top + height))


def _from_array(array: Any) -> Image.Image:
    from PIL import Image

    array = np.asarray(array)
    if array.dtype != np.uint8 or array.size == 0 or (array.ndim != 2 and (array.ndim != 3 or array.shape[2] not in (1, 3, 4))):
        raise DataError(
            f"An image is a file or a uint8 array (height, width, channels) with 1, 3 or 4 channels; this one is {array.dtype} of shape "
            f"{array.shape}."
        )
    return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def _upright(image: Image.Image) -> Image.Image:
    """As the camera was held."""
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def _pixels(image: Image.Image, channels: int) -> Image.Image:
    """8 bits of grey or colour. Pillow would cut 16 bits off at 255."""
    from PIL import Image

    if image.mode == "F" or image.mode.startswith("I"):
        scale = 255.0 if image.mode == "F" else 255.0 / 65535.0
        image = Image.fromarray((np.asarray(image, np.float32) * scale).round().clip(0, 255).astype(np.uint8))
    return image.convert(_MODES[channels])

"""Opening image files with Pillow, and saying in one sentence what is wrong with one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .errors import DataError

if TYPE_CHECKING:
    from PIL import Image


@contextlib.contextmanager
def opened(path: str | os.PathLike) -> Iterator[Image.Image]:
    """An image file. Raises DataError for one that is missing, damaged or no image, be it found now or while decoding."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise DataError(f"There is no image file {path}.") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder, not an image file.") from None
    except PermissionError:
        raise DataError(f"The image file {path} may not be read (permission denied).") from None
    except UnidentifiedImageError:
        raise DataError(f"{path} is not an image file that Pillow can read.") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # each is some decoder's word for damage
        raise DataError(f"The image file {path} is damaged or cannot be read: {str(error).rstrip('.')}.") from error

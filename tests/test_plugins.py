"""Plugins: hooks, isolation, conflicts, allow- and block-lists, hook versions, and where a thing comes from."""

from __future__ import annotations

import inspect
import subprocess
import sys
import textwrap
import warnings
from importlib import metadata
from pathlib import Path

import pluggy
import pytest

import numbacnn
from numbacnn.errors import PluginError, UnknownNameError
from numbacnn.layers import activation
from numbacnn.plugin import builtins, hookspecs, manager, registry, specs
from numbacnn.plugin.manager import PluginManager, PluginWarning

HEADER = """
import numbacnn as nc
from numbacnn.plugin.specs import *
from numbacnn.plugin import specs
"""
ONE_LAYER = """
@nc.hookimpl
def numbacnn_layers():
    yield LayerSpec("Blur", "blur_code:Blur", "a layer")
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a distribution with one entry point on the path, as pip leaves it there."""
    monkeypatch.syspath_prepend(str(tmp_path))
    modules = []

    def put(distribution: str, source: str, version: str = "1.0", point: str | None = None, value: str | None = None) -> None:
        module = distribution.replace("-", "_")
        modules.append(module)
        (tmp_path / f"{module}.py").write_text(HEADER + textwrap.dedent(source))
        info = tmp_path / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[numbacnn]\n{point or module} = {value or module}\n")

    yield put
    for module in modules:
        sys.modules.pop(module, None)


def made(**options) -> PluginManager:
    """A manager that has loaded everything, without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PluginWarning)
        made = PluginManager(**options)
        assert made.plugins
    return made


def status(plugins: PluginManager, name: str) -> manager.PluginInfo:
    return next(p for p in plugins.plugins if p.name == name)


# Hooks and specs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", specs.KINDS)
def test_every_hook_delivers_its_specs(kind, install):
    spec = specs.KINDS[kind]
    install("some-plugin", f"@nc.hookimpl\ndef {spec.hook}():\n    yield {spec.__name__}('thing', 'elsewhere:thing', 'one line')")
    plugins = made()
    entry = registry.find(kind, "thing", plugins)
    assert isinstance(entry.spec, spec)
    assert (entry.distribution, entry.version, entry.spec.summary) == ("some-plugin", "1.0", "one line")
    assert "thing" in registry.names(kind, plugins)
    info = status(plugins, "some_plugin")
    assert (info.status, info.hooks, info.provides) == ("ok", (spec.hook,), {kind: ("thing",)})


def test_every_hook_is_documented_and_belongs_to_a_kind():
    hooks = {name: value for name, value in vars(hookspecs).items() if name.startswith("numbacnn_")}
    assert set(hooks) == {spec.hook for spec in specs.SPECS}
    for name, hook in hooks.items():
        assert inspect.getdoc(hook), f"{name} has no documentation"
    for spec in specs.SPECS:
        assert "actory:" in inspect.getdoc(spec), f"{spec.__name__} does not say what its factory is"


def test_the_marker_is_public():
    assert numbacnn.hookimpl is hookspecs.hookimpl
    assert isinstance(numbacnn.hookimpl, pluggy.HookimplMarker)


def test_hooks_may_take_the_version_or_return_a_list(install):
    install("some-plugin", "@nc.hookimpl\ndef numbacnn_losses(version):\n    return [LossSpec('v' + version.replace('.', '_'), 'm:x')]")
    assert f"v{numbacnn.__version__.replace('.', '_')}" in registry.names("loss", made())


def test_an_entry_point_may_name_an_object(install):
    source = "class Plugin:\n    @nc.hookimpl\n    def numbacnn_layers(self):\n        yield LayerSpec('Blur', 'm:x')\nplugin = Plugin()"
    install("some-plugin", source, value="some_plugin:plugin")
    assert "Blur" in registry.names("layer", made())


@pytest.mark.parametrize("name", ["", "two words", "a:b", "1st", "a-b", None])
def test_a_spec_refuses_other_names_than_identifiers(name):
    with pytest.raises(PluginError, match="letters, digits and underscores"):
        specs.LayerSpec(name, "module:thing")


@pytest.mark.parametrize("factory", ["module", "module:", ":thing", "module.thing", "a b:c", len])
def test_a_spec_refuses_other_factories_than_dotted_strings(factory):
    with pytest.raises(PluginError, match=r"package\.module:attribute"):
        specs.LayerSpec("Blur", factory)


def test_a_command_may_have_dashes():
    assert specs.CommandSpec("export-all", "m:x").name == "export-all"


# Isolation -----------------------------------------------------------------------------------------------------------

BROKEN = {
    "import": ("import module_that_nobody_has", "No module named 'module_that_nobody_has'"),
    "syntax": ("def f(:", "SyntaxError"),
    "exits when imported": ("raise SystemExit(3)", "SystemExit: 3"),
    "raises in a hook": ("@nc.hookimpl\ndef numbacnn_layers():\n    raise ValueError('no luck')", "ValueError: no luck"),
    "raises late": ("@nc.hookimpl\ndef numbacnn_layers():\n    yield LayerSpec('Late', 'm:x')\n    raise ValueError('late')", "late"),
    "exits in a hook": ("@nc.hookimpl\ndef numbacnn_layers():\n    import sys\n    sys.exit('bye')", "SystemExit: bye"),
    "yields rubbish": ("@nc.hookimpl\ndef numbacnn_layers():\n    yield 42", "yielded 42, which is not a LayerSpec"),
    "yields another kind": ("@nc.hookimpl\ndef numbacnn_layers():\n    yield LossSpec('x', 'm:x')", "not a LayerSpec"),
    "returns one spec": ("@nc.hookimpl\ndef numbacnn_layers():\n    return LayerSpec('x', 'm:x')", "must yield LayerSpec"),
    "returns a number": ("@nc.hookimpl\ndef numbacnn_layers():\n    return 42", "gave a int"),
    "yields a name twice": ("@nc.hookimpl\ndef numbacnn_layers():\n    for _ in 'ab':\n        yield LayerSpec('x', 'm:x')", "twice"),
    "malformed name": ("@nc.hookimpl\ndef numbacnn_layers():\n    yield LayerSpec('a b', 'm:x')", "letters, digits"),
    "unknown hook": ("@nc.hookimpl\ndef numbacnn_lyers():\n    return []", "numbacnn_lyers"),
    "unknown argument": ("@nc.hookimpl\ndef numbacnn_layers(registry):\n    return []", "registry"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_reported_and_disturbs_nobody(case, install):
    source, reason = BROKEN[case]
    install("a-broken-one", source)
    install("good-one", ONE_LAYER)
    plugins = PluginManager()
    with pytest.warns(PluginWarning, match="a_broken_one.*not used"):
        names = registry.names("layer", plugins)
    assert "Blur" in names
    assert "Conv2D" in names
    assert "Late" not in names, "a broken plugin is taken over whole or not at all"
    info = status(plugins, "a_broken_one")
    assert info.status == "broken"
    assert reason in info.error
    assert info.provides == {}
    assert status(plugins, "good_one").status == "ok"


def test_an_entry_point_to_nothing_is_reported(install):
    install("some-plugin", "", value="some_plugin:nothing_there")
    assert "AttributeError" in status(made(), "some_plugin").error


def test_the_warning_comes_once(install):
    install("a-broken-one", "1 / 0")
    plugins = PluginManager()
    with pytest.warns(PluginWarning):
        registry.names("layer", plugins)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        registry.names("layer", plugins)


def test_keyboard_interrupt_is_not_swallowed(install):
    install("some-plugin", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        PluginManager().entries("layer")


def test_a_plugin_that_looks_names_up_while_it_is_imported(install):
    install("some-plugin", "from numbacnn.plugin import registry\nassert 'Conv2D' in registry.names('layer')\n" + ONE_LAYER)
    assert "Blur" in registry.names("layer", made())


def test_a_factory_that_cannot_be_imported_says_whose_it_is(install):
    install("some-plugin", "@nc.hookimpl\ndef numbacnn_layers():\n    yield LayerSpec('Blur', 'module_that_nobody_has:Blur')")
    with pytest.raises(PluginError, match=r"layer 'Blur' of some-plugin 1.0 .*module_that_nobody_has") as caught:
        registry.load("layer", "Blur", made())
    assert "\n" not in str(caught.value)


# Conflicts -----------------------------------------------------------------------------------------------------------


def test_two_providers_of_a_name(install):
    install("plugin-a", ONE_LAYER + "    yield LayerSpec('OnlyA', 'm:x')", "1.5")
    install("plugin-b", ONE_LAYER, "2.5")
    plugins = made()
    with pytest.raises(PluginError, match=r"plugin-a 1\.5.*plugin-b 2\.5.*'plugin-a:Blur' or 'plugin-b:Blur'"):
        registry.find("layer", "Blur", plugins)
    assert registry.find("layer", "OnlyA", plugins).distribution == "plugin-a"
    assert registry.find("layer", "plugin-b:Blur", plugins).distribution == "plugin-b"
    assert registry.find("layer", "Plugin_A:Blur", plugins).distribution == "plugin-a"
    assert status(plugins, "plugin_a").status == "conflict"
    assert status(plugins, "plugin_a").error == "The layer 'Blur' is provided by plugin-b 2.5 too."


def test_a_plugin_does_not_shadow_a_builtin(install):
    install("plugin-a", "@nc.hookimpl\ndef numbacnn_layers():\n    yield LayerSpec('Conv2D', 'm:x')")
    plugins = made()
    with pytest.raises(PluginError, match="'numbacnn:Conv2D' or 'plugin-a:Conv2D'"):
        registry.find("layer", "Conv2D", plugins)
    assert registry.find("layer", "numbacnn:Conv2D", plugins).spec.factory == "numbacnn.layers.conv:Conv2D"
    assert registry.find("layer", "plugin-a:Conv2D", plugins).spec.factory == "m:x"
    assert registry.find("layer", "Dense", plugins).distribution == "numbacnn"
    assert status(plugins, "builtins").status == "ok"
    assert status(plugins, "plugin_a").status == "conflict"


def test_a_plugin_does_not_shadow_a_builtin_activation(install, monkeypatch):
    install(
        "plugin-a",
        """
        @nc.hookimpl
        def numbacnn_activations():
            yield ActivationSpec("relu", "numbacnn.layers.activation:Tanh")
        """,
    )
    monkeypatch.setenv("NUMBACNN_PLUGINS", "plugin_a")
    x = numbacnn.Input((8, 8, 3))
    with pytest.raises(PluginError, match="'numbacnn:relu' or 'plugin-a:relu'"):
        numbacnn.Conv2D(4, 3, activation="relu")(x)
    assert activation.resolve("numbacnn:relu") == activation.ReLU()
    assert activation.resolve("plugin-a:relu") == activation.Tanh()
    assert activation.resolve("tanh") == activation.Tanh()
    manager._manager.cache_clear()


def test_two_plugins_of_one_distribution_are_told_apart_by_their_own_names(install, tmp_path):
    install("both", ONE_LAYER, point="one")
    (tmp_path / "both-1.0.dist-info/entry_points.txt").write_text("[numbacnn]\none = both\ntwo = both_again\n")
    (tmp_path / "both_again.py").write_text(HEADER + ONE_LAYER)
    plugins = made()
    with pytest.raises(PluginError, match="'one:Blur' or 'two:Blur'"):
        registry.find("layer", "Blur", plugins)
    assert registry.find("layer", "two:Blur", plugins).plugin == "two"


# Choosing plugins ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["plugin_a", "plugin-a", "Plugin.A"])
def test_allow_list(given, install):
    install("plugin-a", ONE_LAYER)
    install("plugin-b", "raise RuntimeError('must not be imported')")
    plugins = made(allowed=[given])
    assert "Blur" in registry.names("layer", plugins)
    assert status(plugins, "plugin_b").status == "blocked"
    assert "NUMBACNN_PLUGINS" in status(plugins, "plugin_b").error
    assert "plugin_b" not in sys.modules


def test_empty_allow_list_means_none(install):
    install("plugin-a", ONE_LAYER)
    plugins = made(allowed=[])
    assert {p.name for p in plugins.plugins if p.status == "ok"} == {"builtins"}
    assert "Conv2D" in registry.names("layer", plugins)


def test_block_list(install):
    install("plugin-a", "raise RuntimeError('must not be imported')")
    install("plugin-b", ONE_LAYER)
    plugins = made(blocked=["plugin-a"])
    assert status(plugins, "plugin_a").status == "blocked"
    assert "Blur" in registry.names("layer", plugins)
    assert "plugin_a" not in sys.modules


def test_blocking_one_of_two_ends_a_conflict(install):
    install("plugin-a", ONE_LAYER)
    install("plugin-b", ONE_LAYER)
    assert registry.find("layer", "Blur", made(blocked=["plugin_a"])).distribution == "plugin-b"


@pytest.mark.parametrize("options", [{"allowed": ["nobody"]}, {"blocked": ["nobody"]}])
def test_a_list_that_names_nobody_warns(options):
    with pytest.warns(PluginWarning, match="'nobody', which is not installed"):
        assert PluginManager(**options).plugins


def test_the_environment_says_which(install, monkeypatch):
    install("plugin-a", ONE_LAYER)
    install("plugin-b", ONE_LAYER.replace("Blur", "Sharpen"))
    monkeypatch.setenv("NUMBACNN_PLUGINS", " plugin-a , plugin_b ")
    assert {"Blur", "Sharpen"} <= set(registry.names("layer"))
    monkeypatch.setenv("NUMBACNN_NO_PLUGIN", "plugin_b")
    assert "Blur" in registry.names("layer")
    assert "Sharpen" not in registry.names("layer")
    monkeypatch.setenv("NUMBACNN_PLUGINS", "")
    assert "Blur" not in registry.names("layer")
    manager._manager.cache_clear()


@pytest.mark.parametrize("version", ["2", "'2.1'", "0", "'one'"])
def test_a_plugin_for_another_hook_version_is_refused(version, install):
    install("plugin-a", f"numbacnn_api = {version}\n" + ONE_LAYER)
    plugins = PluginManager()
    with pytest.warns(PluginWarning, match="was built for version"):
        assert "Blur" not in registry.names("layer", plugins)
    assert status(plugins, "plugin_a").status == "incompatible"


@pytest.mark.parametrize("version", ["1", "'1.3'"])
def test_a_plugin_for_this_hook_version_is_taken(version, install):
    install("plugin-a", f"numbacnn_api = {version}\n" + ONE_LAYER)
    assert "Blur" in registry.names("layer", made())


# Names and origins ---------------------------------------------------------------------------------------------------


def test_an_unknown_name_suggests_near_ones():
    with pytest.raises(UnknownNameError, match="Did you mean 'Conv2D'"):
        registry.find("layer", "Conv2d", made())
    with pytest.raises(UnknownNameError, match="no layer named 'other:Conv2D'"):
        registry.find("layer", "other:Conv2D", made())


def test_an_unknown_name_tells_of_plugins_that_are_not_in_use(install):
    install("plugin-a", "1 / 0")
    with pytest.raises(UnknownNameError, match=r"plugin_a \(broken\)"):
        registry.find("layer", "Blur", made())


REAL_LAYER = """
class Blur:
    pass

@nc.hookimpl
def numbacnn_layers():
    yield LayerSpec("Blur", "plugin_a:Blur")

@nc.hookimpl
def numbacnn_activations():
    yield ActivationSpec("sharp", "plugin_a:Sharp.inner")

class Sharp:
    class inner:
        pass
"""


def test_origin_of_names_classes_and_instances(install):
    install("plugin-a", REAL_LAYER, "3.1")
    plugins = made()
    import plugin_a

    expected = registry.Origin("Blur", "plugin-a", "3.1")
    assert registry.origin("layer", "Blur", plugins) == expected
    assert registry.origin("layer", plugin_a.Blur, plugins) == expected
    assert registry.origin("layer", plugin_a.Blur(), plugins) == expected
    assert registry.load("layer", "Blur", plugins) is plugin_a.Blur

    class Mine:
        pass

    assert registry.origin("layer", Mine(), plugins) == registry.Origin("Mine", None, None)


def test_an_activation_is_a_layer_too(install):
    install("plugin-a", REAL_LAYER)
    plugins = made()
    import plugin_a

    assert registry.load("layer", "sharp", plugins) is plugin_a.Sharp.inner
    assert registry.origin("layer", plugin_a.Sharp.inner(), plugins).name == "sharp"
    assert "sharp" not in registry.names("layer", plugins)


def test_a_saved_model_finds_its_layers_again(install):
    install("plugin-a", REAL_LAYER)
    install("plugin-b", ONE_LAYER)
    plugins = made()
    import plugin_a

    origin = registry.origin("layer", plugin_a.Blur, plugins)
    assert registry.load_saved("layer", origin.name, origin.distribution, origin.version, plugins) is plugin_a.Blur


def test_a_saved_model_says_what_to_install(install):
    with pytest.raises(PluginError, match=r"layer 'Blur' .*version 3\.1.*not installed: pip install plugin-a"):
        registry.load_saved("layer", "Blur", "plugin-a", "3.1", made())
    install("plugin-a", "", "1.0")
    with pytest.raises(PluginError, match=r"version 1\.0 is installed and does not have it"):
        registry.load_saved("layer", "Blur", "plugin-a", "3.1", made())
    with pytest.raises(PluginError, match="'plugin_a' is blocked"):
        registry.load_saved("layer", "Blur", "plugin-a", "3.1", made(blocked=["plugin_a"]))


# Built-ins -----------------------------------------------------------------------------------------------------------

BUILTINS = [spec for kind in specs.SPECS if hasattr(builtins, kind.hook) for spec in getattr(builtins, kind.hook)()]


@pytest.mark.parametrize("spec", BUILTINS, ids=lambda spec: f"{spec.kind}-{spec.name}")
def test_every_builtin_can_be_imported(spec):
    thing = registry.load(spec.kind, f"numbacnn:{spec.name}")
    assert inspect.getdoc(thing), f"{spec.factory} has no docstring"
    assert spec.summary, f"{spec.kind} {spec.name} has no summary"


MADE_BY_THE_PLANNER = {  # and so in no saved model
    "numbacnn.layers.expansion:ExpandedDepthwise",
    "numbacnn.layers.epilogue:FusedEpilogue",
    "numbacnn.layers.norm:FusedNorm",
    "numbacnn.layers.squeeze:Excitation",
}


def test_every_public_layer_class_is_registered():
    from numbacnn.layers.base import Layer

    registered = {spec.factory for spec in BUILTINS if spec.kind in ("layer", "activation")} | MADE_BY_THE_PLANNER
    missing = []
    for path in sorted(Path(numbacnn.__file__).parent.joinpath("layers").glob("[a-z]*.py")):
        module = __import__(f"numbacnn.layers.{path.stem}", fromlist=["*"])
        for name, value in vars(module).items():
            own = isinstance(value, type) and issubclass(value, Layer) and value.__module__ == module.__name__
            concrete = own and (value.alias or value.forward is not Layer.forward) and "__dataclass_params__" in vars(value)
            if concrete and not name.startswith("_") and f"{module.__name__}:{name}" not in registered:
                missing.append(f"{module.__name__}:{name}")
    assert not missing


def test_listing_imports_nothing_heavy():
    code = """
        import sys
        from numbacnn.plugin import registry, specs
        for kind in specs.KINDS:
            registry.names(kind)
        heavy = {"numba", "numbacnn.layers", "numbacnn.training", "PIL", "rich", "click"} & set(sys.modules)
        assert not heavy, heavy
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_importing_numbacnn_imports_no_plugin():
    points = {point.value.split(":")[0].split(".")[0] for point in metadata.entry_points(group="numbacnn")}
    code = f"import sys, numbacnn; assert not {points!r} & set(sys.modules); assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

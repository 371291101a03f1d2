"""Models: a graph, its parameters, and the plans that run it."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import numpy as np

from . import kernels
from .cores import core_count
from .errors import ConfigError, ShapeError, UnknownNameError, WeightsError
from .graph import passes
from .graph.build import Graph, Node
from .graph.config import from_config, to_config, unregistered_layers
from .graph.devices import HOST, Cuda, checked_precision, device_named, is_on_gpu, stored_between
from .graph.handover import hand_over
from .graph.head import with_classes
from .graph.measure import Measured, Measurement, progress_bar
from .graph.parameters import Parameters, ParameterStore
from .graph.passes.methods import with_kept_packing, with_measured_methods
from .graph.plan import Plan, make_plan
from .graph.plan_cache import PlanCache
from .graph.recompute import checked_recompute
from .graph.run import InferencePlan, TrainingPlan, Walk
from .graph.sections import Section, WalkPlan, find_sections, make_walk
from .graph.tensor import Input, Tensor
from .layers.base import Layer
from .layers.checks import is_integer, is_number
from .weights.preprocessing import Preprocessing

if TYPE_CHECKING:
    from .graph.cuda import DeviceInferencePlan, DeviceTrainingPlan
    from .inspect.optimization import OptimizeReport
    from .inspect.summary import Summary

DTYPES = ("float32", "float64")
CHUNK = 64  # samples that predict runs at once, unless told otherwise


class Model:
    """A network from symbolic ``inputs`` to ``outputs`` (one tensor each, or sequences of them), with its parameters. Outputs may be a
    mapping from name to tensor; :meth:`predict` then gives one.

    Args:
        seed: of the initial parameters and of all randomness in training.
        dtype: working type, ``"float32"`` or ``"float64"``.
        name: for the summary.
        start: a model whose parameters are taken over where names and shapes are the same, such as the one whose tensors these are.

    ``graph`` holds the nodes, ``store`` the arrays of parameters, ``parameters`` is the mapping from name to array.
    ``output_names`` are the names of the outputs where they have any, else None. ``classes`` are the class names by label, None until
    somebody sets them; ``architecture`` is the registered name that :func:`create` made the model from, else None; ``preprocessing`` is a
    :class:`~numbacnn.weights.preprocessing.Preprocessing` that makes inputs of images, None until somebody sets it. All three are
    saved with the model. ``device``, ``"cpu"`` or ``"cuda"``, is where :meth:`predict` runs, with products in ``precision`` (:meth:`to`);
    ``on_device`` are the parameters there (:class:`~numbacnn.graph.cuda.DeviceParameters`), None before. ``exact``, False unless somebody
    sets it, leaves out convolution methods that round more than the direct one.
    Models can be copied (``copy.deepcopy``) and pickled, as far as their layers can be.
    Raises ConfigError for inputs and outputs that are not connected or names that are given twice.
    """

    def __init__(
        self,
        inputs: Any,
        outputs: Any,
        seed: int = 0,
        dtype: str = "float32",
        name: str | None = None,
        start: Model | None = None,
    ):
        if not _is_working_type(dtype):
            raise ConfigError(f"A model was given dtype {dtype!r}; it takes 'float32' or 'float64'.")
        if not is_integer(seed, 0):
            raise ConfigError(f"A model was given seed {seed!r}; it takes a whole number from 0 on.")
        self.output_names = tuple(map(str, outputs)) if isinstance(outputs, Mapping) else None
        self.graph = Graph(_as_sequence(inputs), _as_sequence(outputs))
        self.seed, self.dtype, self.name = int(seed), np.dtype(dtype), name
        self.store: ParameterStore = ParameterStore(self.graph.specs, self.seed, self.dtype, None if start is None else start.store)
        self.parameters = Parameters(self.store)
        self.classes: tuple[str, ...] | None = None
        self.architecture: str | None = None
        self.preprocessing: Preprocessing | None = None
        self.exact = False
        self.device, self.precision = "cpu", "float32"
        self.on_device: Any = None
        self._plans = PlanCache()
        self._idle_pipelines: list[Any] = []  # at most one, for predictions of many batches on the GPU
        self._accumulated: WeakValueDictionary[tuple, Any] = WeakValueDictionary()  # gradients, by device and by what is frozen

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The symbolic inputs."""
        return self.graph.inputs

    @property
    def outputs(self) -> dict[str, Tensor] | tuple[Tensor, ...]:
        """The symbolic outputs, by name where they have names. A network goes on from here::

        body = nc.create("resnet50", weights="imagenet", features=True)
        model = nc.Model(body.inputs, my_head(body.outputs["stage4"]), start=body)
        """
        tensors = self.graph.outputs
        return tensors if self.output_names is None else dict(zip(self.output_names, tensors))

    # Use -------------------------------------------------------------------------------------------------------------

    def predict(self, images: Any, batch_size: int | None = None) -> Any:
        """Outputs for ``images`` ``(N, ...)`` in inference mode, as new NumPy arrays.

        A model with several inputs takes a tuple or list of arrays, one with several outputs gives a tuple, or a mapping if they
        have names. Images are run ``batch_size`` at a time. Several threads may call this at once; those with batches of one size
        wait for each other. On a GPU it takes arrays that lie there, too (of PyTorch, CuPy, JAX: anything with ``__dlpack__`` or
        ``__cuda_array_interface__``), without a copy to the host, and then gives such (``torch.from_dlpack`` takes them). Raises ShapeError
        and ConfigError for arrays that are not what the model takes.
        """
        batches = self._checked_inputs(images)
        if batch_size is not None and not is_integer(batch_size, 1):
            raise ConfigError(f"predict was given batch_size={batch_size!r}; it takes a whole number of at least 1.")
        size = batch_size or CHUNK
        count = len(batches[0])
        results = self._inference_plan(count).results(batches) if 0 < count <= size else self._results(batches, size)
        if self.output_names is not None:
            return dict(zip(self.output_names, results))
        return results[0] if len(results) == 1 else tuple(results)

    def _results(self, batches: Sequence[Any], size: int) -> list[Any]:
        """As of :meth:`predict`, of checked arrays with none or more than ``size`` images."""
        count = len(batches[0])
        on_host = self.device == "cpu" or all(isinstance(batch, np.ndarray) for batch in batches)
        empty = np.empty if on_host else device_named(self.device).empty
        results = [empty((count, *tensor.shape), self.dtype) for tensor in self.graph.outputs]
        parts = [slice(start, min(start + size, count)) for start in range(0, count, size)]
        if self.device != "cpu" and on_host:
            for part, found in zip(parts, self._pipelined([batch[part] for batch in batches] for part in parts)):
                for result, array in zip(results, found):
                    result[part] = array
        else:
            for part in parts:
                plan = self._inference_plan(part.stop - part.start)
                plan.forward([batch[part] for batch in batches], [result[part] for result in results])
        return results

    def _predictions(self, batches: Iterable[Any]) -> Iterator[list[np.ndarray]]:
        """For each batch, as :meth:`predict` takes it, a list of its outputs, which last until the next are asked for. A batch is run as a
        whole, on a GPU while the next one is prepared."""
        if self.device != "cpu":
            yield from self._pipelined(map(self._checked_inputs, batches))
            return
        for batch in batches:
            outputs = self.predict(batch, len(batch[0]) if len(self.graph.inputs) > 1 else len(batch))
            yield list(_as_sequence(outputs))

    def _pipelined(self, batches: Iterable[Sequence[np.ndarray]]) -> Iterator[list[np.ndarray]]:
        """As :meth:`_predictions`, of checked arrays on the GPU."""
        from .graph.cuda import Pipeline

        try:
            pipeline = self._idle_pipelines.pop()  # another thread may be at work with one
        except IndexError:
            pipeline = Pipeline()
        try:
            yield from pipeline.run((self._inference_plan(len(batch[0])), batch) for batch in batches)
        finally:
            self._idle_pipelines[:] = [pipeline]

    def __call__(self, images: Any) -> Any:
        """As :meth:`predict`."""
        return self.predict(images)

    def to(self, device: str, precision: str = "float32") -> Model:
        """Run on ``device`` from now on, ``"cuda"`` (the first NVIDIA GPU) or ``"cpu"``; a Trainer that is made afterwards trains there.

        ``precision`` is that of the products of convolutions and Dense layers on the GPU: ``"float32"``, or on tensor cores ``"tf32"``
        (numbers rounded to 10 bits of mantissa) or ``"bf16"`` (to 7), where channels come in multiples of 4; depthwise layers take float32.
        With ``"bf16"`` activations and their gradients are stored so, which halves their memory, but for inputs and outputs. Sums, all
        else, and parameters, their gradients and statistics are float32 always.

        ``parameters`` stays a mapping of NumPy arrays: what is written there goes to the GPU before the next run, and what training has
        changed on the GPU comes back when somebody asks for it. (An array that was held before then is brought up to date too.) Returns
        the model. Raises DeviceError where there is no GPU, with the reason, or a layer that has no kernels for it; ConfigError for another
        name, and for a model that does not work in float32."""
        self.precision = checked_precision(precision, self._placed(device))
        self.device = device
        if device == "cpu":
            self._idle_pipelines.clear()  # which hold memory there
        return self

    def _placed(self, device: str) -> Any:
        """The device of that name, which has the parameters."""
        found = device_named(device)
        if isinstance(found, Cuda):
            self.store.check_kept(self.store.specs)
        if isinstance(found, Cuda) and self.on_device is None:
            if self.dtype != np.float32:
                raise ConfigError(f"A model in {self.dtype} was to run on the GPU, where kernels work in float32.")
            passes.for_cuda(self.graph.nodes)
            from .graph.cuda import DeviceParameters

            self.on_device = DeviceParameters(self.store, found)
        return found

    def optimize(self, example: Any, budget_seconds: float = 10.0) -> OptimizeReport:
        """Measure the ways in which each convolution can run in inference, for batches as large as ``example`` (as :meth:`predict` takes
        them) on the present number of threads, and remember the fastest.

        From then on all models, in all processes on this machine, take what was measured for such shapes in place of the cost model's
        choice; it lies in the cache folder, or in this process alone where nothing can be written. A way is chosen over the cost model's
        only if it was 3 % faster or more. The budget, in seconds, goes to the shapes with the most operations first; the rest keep the
        cost model's choice, or what an earlier call chose. Kernels that are compiled for the first time come on top of it. Training is
        not changed.

        Predictions may differ from before in their last bits, as between methods of convolution (some 1e-5 of the largest output of a
        layer in float32); they are the same bits for any number of threads only as long as the choices for these numbers are the same.
        With ``model.exact`` there is one way only, and nothing to choose.

        :meth:`predict` runs 64 samples at once unless it is told otherwise: for larger batches give it their ``batch_size``. The report
        can be printed, and has the same as data. Raises ShapeError and ConfigError for an example that the model does not take, and
        ConfigError for a budget that is not a number above 0."""
        batch = len(self._checked_inputs(example)[0])
        if batch == 0:
            raise ShapeError("optimize was given an example without images; it needs a batch of the size that is to be fast.")
        if not is_number(budget_seconds) or budget_seconds <= 0:
            raise ConfigError(f"optimize was given budget_seconds={budget_seconds!r}; it takes a number of seconds above 0.")
        from .inspect.optimization import OptimizeReport

        threads = kernels.jit.num_threads()
        return OptimizeReport(batch, threads, self._measure(batch, threads, budget_seconds))

    def release_parameters(self, batch_size: int = CHUNK) -> None:
        """Give back the memory of all parameters that prediction does not read: packed weights take their place, layer by layer, so that
        there is never room for both.

        From then on the model predicts, with the same bits as before on batches of ``batch_size``, and does nothing else: training, saving,
        and reading or changing parameters raise ConfigError. Batches of other sizes are predicted from the same packed weights, where
        their last bits may differ from before (as after :meth:`optimize`). What is given back goes to the system on Linux, from
        parameters of some megabytes in all on; elsewhere it stays with the process.

        Nobody else may use the model meanwhile. Raises ConfigError where an array of ``parameters`` is still held, and for a batch size
        that is no whole number of at least 1."""
        batch_size = _checked_batch_size(batch_size)
        if self.device != "cpu":
            raise ConfigError("release_parameters packs weights for the CPU, and the model runs on the GPU: model.to('cpu') comes first.")
        with self._plans.lock:
            if self.store.released:
                return
            if self.store.handed_out:
                raise ConfigError("release_parameters was called while an array of model.parameters is held; delete that first.")
            self._plans.clear()
            plan: Any = self._inference_plan(batch_size)
            self.store.packed.keep_only(plan.weights.entries, plan.parameters_read(), self.store)

    def _measure(self, batch: int, threads: int, budget: float) -> tuple[Measured, ...]:
        """Measure and remember, shape by shape. Plans that were made by other choices are dropped, also where this is interrupted;
        one that runs in another thread ends as it began."""
        memory, rows = kernels.choices.measured(), []
        with self._plans.lock:
            sections, store, other = self._sections(batch, threads), self.store, self._walk(batch, threads).nbytes
        measurement = Measurement(sections, store, threads, budget, other, memory.recall)
        try:
            with progress_bar(len(measurement)) as advance:
                for key, row in measurement:
                    rows.append(row)
                    if row.milliseconds:
                        memory.remember({key: row.choice})
                    advance()
        finally:
            self._plans.clear("inference")
        return tuple(rows)

    def training_plan(
        self,
        batch_size: int,
        input_gradients: bool = False,
        *,
        recompute: str | None = None,
        accumulate: bool = False,
        device: str = "cpu",
    ) -> TrainingPlan:
        """What runs forward and backward on batches of that size (see :class:`~numbacnn.graph.run.TrainingPlan`). Plans
        are kept, so that asking at every step costs nothing.

        ``input_gradients`` asks for gradients of the inputs too. ``recompute`` is that of :class:`~numbacnn.training.trainer.Trainer`. With
        ``accumulate`` gradients of parameters are added to those of earlier batches, whatever their sizes, until
        :meth:`~numbacnn.graph.run.TrainingPlan.clear_gradients`. Raises ConfigError for a ``recompute`` that there is not."""
        batch_size, recompute = _checked_batch_size(batch_size), checked_recompute(recompute)
        frozen = frozenset(self.store.frozen)
        threads = kernels.jit.num_threads()
        key = ("training", batch_size, threads, self.exact, frozen, input_gradients, recompute, accumulate, device, self.precision)

        def make() -> TrainingPlan:
            if device != "cpu":
                return self._made_device_training_plan(batch_size, input_gradients, recompute, accumulate, device)
            plan = self._training_plan(batch_size, input_gradients, threads, recompute, accumulate)
            return TrainingPlan(plan, self.store, self.seed, self._shared_gradients(frozen, HOST) if accumulate else None)

        if device == "cpu":
            self.store.catch_up()
        return self._plans.get(key, make)

    def _made_device_training_plan(
        self, batch_size: int, input_gradients: bool, recompute: str | None, accumulate: bool, name: str
    ) -> DeviceTrainingPlan:
        from .graph.cuda import DeviceTrainingPlan

        device = self._placed(name)
        store = self.store
        nodes, outputs = passes.for_training_on_cuda(
            self._nodes(), self.graph.outputs, store.specs, store.frozen, input_gradients, self.precision
        )
        plan = make_plan(
            nodes, self.graph.inputs, outputs, store.specs, batch=batch_size, training=True, threads=1, dtype=self.dtype,
            frozen=store.frozen, input_gradients=input_gradients, recompute=recompute, accumulate=accumulate,
            between=stored_between(self.precision),
        )  # fmt: skip
        hand_over(plan, nodes)
        gradients = self._shared_gradients(frozenset(store.frozen), device) if accumulate else None
        return DeviceTrainingPlan(plan, self.on_device, self.seed, device, gradients)

    def _shared_gradients(self, frozen: frozenset[str], device: Any) -> Any:
        """What plans on a device add gradients to. It lives as long as one of them does."""
        found, size = self._accumulated.get((device.name, frozen)), self.store.trainable.size
        if found is None or found.size != size:
            found = self._accumulated[device.name, frozen] = device.zeros((size,), self.store.dtype)
        return found

    def memory(self, batch_size: int, training: bool = True, recompute: str | None = None) -> int:
        """Bytes of all arrays that training (or inference) at that batch size needs: parameters, activations,
        gradients, scratch. Found by planning: nothing is allocated. An optimizer's state comes on top. ``recompute`` is that of
        :class:`~numbacnn.training.trainer.Trainer`."""
        size, threads = _checked_batch_size(batch_size), _expected_threads()
        planned = self._training_plan(size, False, threads, checked_recompute(recompute)) if training else self._walk(size, threads)
        return self.store.nbytes + planned.nbytes

    # Parameters ------------------------------------------------------------------------------------------------------

    def freeze(self, *patterns: str, statistics: bool = True) -> None:
        """Train no parameter whose name, or whose layer's or scope's name, matches a pattern (``"stage1"``, ``"stage[12].*"``,
        ``"*.bias"``); without a pattern, none at all.

        Frozen parameters get no gradient, and nothing that only serves theirs is computed or stored. Batch norms that match use their
        running statistics and leave them as they are, unless ``statistics`` is False: then they go on normalising by the batch. A first
        part of the network that is frozen altogether runs as in inference. Raises UnknownNameError where a pattern matches nothing."""
        found = self._matching(patterns)
        self.store.frozen |= {name for name in found if statistics or self.store.specs[name].trainable}

    def unfreeze(self, *patterns: str) -> None:
        """The opposite of :meth:`freeze`."""
        self.store.frozen -= self._matching(patterns)

    def freeze_until(self, name: str) -> None:
        """Freeze all that runs before the layer or scope called ``name``, and train the rest: ``model.freeze_until("stage3")``."""
        nodes = self.graph.nodes
        first = next((k for k, node in enumerate(nodes) if name in _prefixes(node.name)), None)
        if first is None:
            raise UnknownNameError("layer or scope", name, dict.fromkeys(prefix for node in nodes for prefix in _prefixes(node.name)))
        rest = {full for node in nodes[first:] for full in node.parameters.values()}
        self.store.frozen = set(self.store.specs) - rest

    def replace_head(self, classes: int) -> None:
        """Put a new layer of ``classes`` outputs, with fresh parameters, in place of the last dense or convolution layer (of every output,
        where there are several). All other parameters stay as they are; ``model.classes`` are forgotten. Trainers that were made
        before are of no use any more. Raises ConfigError for a model that ends otherwise."""
        outputs, heads = with_classes(self.graph, classes)
        graph = Graph(self.graph.inputs, outputs)
        store = ParameterStore(graph.specs, self.seed, self.dtype, start=self.store)
        fresh = {name for name in store.specs if name.rpartition(".")[0] in heads}
        for name in fresh:
            store.draw(name, self.seed)
        store.frozen = self.store.frozen - fresh
        with self._plans.lock:
            self.graph, self.store, self.parameters, self.classes, self.on_device = graph, store, Parameters(store), None, None
            self._plans.clear()

    def load_weights(self, source: Any, strict: bool = True, skip_mismatched: bool = False, adapt_input: bool = False) -> Any:
        """Copy parameters from a file (``.safetensors``, ``.npz``, or PyTorch's ``.pth``, ``.pt``, ``.bin``, ``.ckpt``, of which nothing is
        run) or a mapping from name to array, and report how the names met (:class:`numbacnn.weights.files.Report`).

        Names and layouts are ours, or those of torchvision or timm where the architecture says what these are: whichever fits more of
        the names. ``strict`` wants every parameter and nothing else. ``skip_mismatched`` leaves out what has another shape, such as a
        head for another number of classes. ``adapt_input`` makes the first convolutions fit another number of channels: grey images
        from weights for colour, or more channels than three. Raises WeightsError, and leaves the model as it was, where the file
        cannot be read or names or shapes don't fit."""
        from .weights import files

        return files.assign(self, files.read_weights(source), strict, skip_mismatched, adapt_input)

    def export(self, path: str | Path, names: str = "torchvision") -> None:
        """Write the parameters to a ``.safetensors`` file in the names and layouts of another library. Raises UnknownNameError where the
        architecture has no rules for it."""
        from .weights import files

        files.export(self, path, names)

    def save(self, path: str | Path) -> None:
        """Write weights and graph into one ``.safetensors`` file, which :func:`numbacnn.load` reads.

        Warns of layers that no plugin registers: their classes are not in the file. Initializers of one's own are not either."""
        from .weights import files

        config = self.to_config()
        own = unregistered_layers(config["graph"])
        if own:
            warnings.warn(
                f"No plugin registers the layer(s) {', '.join(own)}: nc.load cannot make this model again. Build it in code and give the "
                "file to its load_weights, or name the classes in a plugin.",
                stacklevel=2,
            )
        files.save_parts(path, config, {name: self.store.view(name) for name in self.store.specs})

    def to_config(self) -> dict[str, Any]:
        """Everything but the parameters, as data that JSON can hold; :meth:`from_config` makes a model of it."""
        return {**self._described(), "graph": to_config(self.graph)}

    def _described(self) -> dict[str, Any]:
        """What is to be said besides the graph."""
        return {
            "name": self.name,
            "architecture": self.architecture,
            "seed": self.seed,
            "dtype": str(self.dtype),
            "classes": None if self.classes is None else list(self.classes),
            "preprocessing": None if self.preprocessing is None else dataclasses.asdict(self.preprocessing),
            "output_names": None if self.output_names is None else list(self.output_names),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Model:
        """A freshly initialised model from what :meth:`to_config` gave. Raises WeightsError where it cannot be one, and
        PluginError where a layer's package is missing."""
        try:
            inputs, tensors = from_config(config["graph"])
            named = config.get("output_names")
            outputs = tensors if named is None else dict(zip(named, tensors))
            model = cls(inputs, outputs, seed=config["seed"], dtype=config["dtype"], name=config["name"])
            names = config["classes"]
            model.classes = None if names is None else tuple(map(str, names))
            model.architecture = config.get("architecture")
            preparing = config.get("preprocessing")
            model.preprocessing = None if preparing is None else Preprocessing(**preparing)
            return model
        except WeightsError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise WeightsError(f"The description of the model is damaged: {type(error).__name__}: {error}.") from error

    def __reduce__(self) -> tuple:
        """As layers, which are pickled as they are, and arrays. Raises ConfigError where parameters were released."""
        config = {**self._described(), "graph": to_config(self.graph, named=False)}
        weights = {name: self.store.view(name) for name in self.store.specs}
        return type(self)._again, (config, weights, set(self.store.frozen), self.exact, self.device, self.precision)

    @classmethod
    def _again(
        cls, config: dict[str, Any], weights: dict[str, np.ndarray], frozen: set[str], exact: bool, device: str, precision: str
    ) -> Model:
        """What was pickled or copied."""
        model = cls.from_config(config)
        for name, array in weights.items():
            model.parameters[name] = array
        model.store.frozen |= frozen
        model.exact = exact
        return model.to(device, precision) if device != "cpu" else model

    def summary(self) -> Summary:
        """A table of layers, shapes, parameters and operations, printable and as an object."""
        from .inspect.summary import summarize

        return summarize(self)

    def __repr__(self) -> str:
        shapes = [" and ".join(str(tensor.shape) for tensor in tensors) for tensors in (self.graph.inputs, self.graph.outputs)]
        size = sum(math.prod(spec.shape) for spec in self.store.specs.values() if spec.trainable)
        name = f" {self.name!r}" if self.name else ""
        return f"<Model{name}: {shapes[0]} to {shapes[1]}, {len(self.graph.nodes)} layers, {size:,} parameters, {self.dtype}>"

    # Plans -----------------------------------------------------------------------------------------------------------

    def _nodes(self) -> list[Node]:
        return passes.made_exact(self.graph.nodes) if self.exact else self.graph.nodes

    def _inference_nodes(self) -> passes.Rewritten:
        return passes.for_inference(self._nodes(), self.graph.outputs)

    def _sections(self, batch_size: int, threads: int) -> list[Section]:
        nodes, outputs = self._inference_nodes()
        return find_sections(nodes, self.graph.inputs, outputs, batch_size, threads, self.dtype)

    def _walk(self, batch_size: int, threads: int) -> WalkPlan:
        sections = self._sections(batch_size, threads)
        return make_walk(sections, [self._section_plan(section, threads) for section in sections], batch_size, self.dtype)

    def _section_plan(self, section: Section, threads: int) -> Plan:
        """For one group of a section of the network. What comes from the section before it, and goes to the next, lies elsewhere."""
        nodes = with_measured_methods(section.nodes, section.group, threads, self.dtype)
        nodes = with_kept_packing(nodes, section.group, self.store.packed)
        return make_plan(
            nodes,
            section.inputs,
            section.outputs,
            self.store.specs,
            batch=section.group,
            training=False,
            threads=threads,
            dtype=self.dtype,
            elsewhere=section.between,
        )

    def _plan(self, batch_size: int, training: bool, input_gradients: bool, threads: int) -> Plan:
        """For a whole batch at once."""
        if training:
            return self._training_plan(batch_size, input_gradients, threads)
        nodes, outputs = self._inference_nodes()
        return self._section_plan(Section(nodes, self.graph.inputs, outputs, batch_size), threads)

    def _training_plan(
        self, batch_size: int, input_gradients: bool, threads: int, recompute: str | None = None, accumulate: bool = False
    ) -> Plan:
        nodes, outputs = passes.for_training(self._nodes(), self.graph.outputs, self.store.specs, self.store.frozen, input_gradients)
        plan = make_plan(
            nodes,
            self.graph.inputs,
            outputs,
            self.store.specs,
            batch=batch_size,
            training=True,
            threads=threads,
            dtype=self.dtype,
            frozen=self.store.frozen,
            input_gradients=input_gradients,
            recompute=recompute,
            accumulate=accumulate,
        )
        hand_over(plan, nodes)
        return plan

    def _inference_plan(self, batch_size: int) -> InferencePlan | Walk | DeviceInferencePlan:
        if self.device != "cpu":
            return self._plans.get(("inference", batch_size, self.device, self.precision), lambda: self._made_device_plan(batch_size))
        threads = kernels.jit.num_threads()
        return self._plans.get(("inference", batch_size, threads, self.exact), lambda: self._made_inference_plan(batch_size, threads))

    def _made_inference_plan(self, batch_size: int, threads: int) -> InferencePlan | Walk:
        walk = self._walk(batch_size, threads)
        in_one = len(walk.parts) == 1 and walk.parts[0].batch == batch_size
        return InferencePlan(walk.parts[0], self.store) if in_one else Walk(walk, self.store)

    def _made_device_plan(self, batch_size: int) -> DeviceInferencePlan:
        from .graph.cuda import DeviceInferencePlan

        device = self._placed(self.device)
        nodes, outputs = passes.for_inference_on_cuda(self._nodes(), self.graph.outputs, self.precision)
        plan = make_plan(
            nodes, self.graph.inputs, outputs, self.store.specs, batch=batch_size, training=False, threads=1, dtype=self.dtype,
            between=stored_between(self.precision),
        )  # fmt: skip
        return DeviceInferencePlan(plan, self.on_device, device)

    # Checks ----------------------------------------------------------------------------------------------------------

    def _matching(self, patterns: Sequence[str]) -> set[str]:
        """Names of the parameters that any pattern matches, or of all."""
        if not all(isinstance(pattern, str) for pattern in patterns):
            raise ConfigError(f"{patterns!r} was given as patterns of parameters' names; such as 'stage1' or '*.bias' are needed.")
        found: set[str] = set()
        for pattern in patterns or ("*",):
            matched = {name for name in self.store.specs if any(fnmatch.fnmatchcase(prefix, pattern) for prefix in _prefixes(name))}
            if not matched:
                raise UnknownNameError("parameter", pattern, self.store.specs)
            found |= matched
        return found

    def _taken(self, array: Any, tensor: Tensor, name: str) -> Any:
        """An array as it is, or one on the GPU as our kernels take it."""
        if isinstance(array, (np.ndarray, list)) or not is_on_gpu(array):
            return array
        if self.device == "cpu":
            raise ConfigError(
                f"Input {name!r} was given an array on a GPU, and the model runs on the CPU: model.to('cuda') lets it run there."
            )
        from .kernels.cuda.interchange import borrowed

        found, wanted = borrowed(array), np.dtype(tensor.dtype or self.dtype)
        if found.dtype != wanted:
            raise ConfigError(f"Input {name!r} was given an array on the GPU of type {found.dtype}; it takes {wanted}.")
        return found

    def _checked_inputs(self, images: Any) -> list[np.ndarray]:
        tensors, names = self.graph.inputs, self.graph.input_names
        if len(tensors) == 1 and _is_plain(images, tensors[0]):  # which is nearly always so, and small networks feel the checks
            return [images]
        given = [images]
        if len(tensors) > 1:
            if not isinstance(images, (tuple, list)) or len(images) != len(tensors):
                raise ShapeError(f"The model has {len(tensors)} inputs ({', '.join(names)}); it takes a tuple of as many arrays.")
            given = list(images)
        arrays = [_checked_input(self._taken(array, tensor, name), tensor, name) for array, tensor, name in zip(given, tensors, names)]
        counts = {len(array): None for array in arrays}  # in their order
        if len(counts) > 1:
            raise ShapeError(f"The model's inputs were given batches of {' and '.join(map(str, counts))}; they must be of one size.")
        return arrays


class Sequential:
    """Layers one after the other; a model once it is built for an input shape, or a block when it is called on a tensor::

    model = nc.Sequential([nc.Flatten(), nc.Dense(10)]).build((28, 28, 1))
    """

    def __init__(self, layers: Sequence[Layer], name: str | None = None):
        if not isinstance(layers, (list, tuple)):
            raise ConfigError(f"Sequential was given {layers!r}; it takes one list of layers: nc.Sequential([nc.Flatten(), nc.Dense(10)]).")
        self.layers, self.name = tuple(layers), name
        for layer in self.layers:
            if not isinstance(layer, (Layer, Sequential)):
                raise ConfigError(f"Sequential was given {layer!r}; it takes layers, such as nc.Dense(10).")

    def __call__(self, tensor: Tensor) -> Any:
        for layer in self.layers:
            tensor = layer(tensor)
        return tensor

    @property
    def input_dtype(self) -> str | None:
        """Type of the inputs, as of layers."""
        return self.layers[0].input_dtype if self.layers else None

    def build(self, input_shape: Any, seed: int = 0, dtype: str = "float32") -> Model:
        """A model for inputs of ``input_shape`` (without the batch axis)."""
        x = Input(input_shape, dtype=self.input_dtype)
        return Model(x, self(x), seed=seed, dtype=dtype, name=self.name)

    def __repr__(self) -> str:
        return f"Sequential([{', '.join(map(repr, self.layers))}])"


def _as_sequence(tensors: Any) -> tuple:
    if isinstance(tensors, Mapping):
        return tuple(tensors.values())
    return tuple(tensors) if isinstance(tensors, (tuple, list)) else (tensors,)


def _prefixes(name: str) -> list[str]:
    """A parameter's name and those of its layer and the scopes around it."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _is_plain(array: Any, tensor: Tensor) -> bool:
    """Whether it is a batch that nothing is to be said against."""
    return type(array) is np.ndarray and tensor.dtype is None and array.dtype.kind == "f" and array.shape[1:] == tensor.shape


def _checked_input(array: Any, tensor: Tensor, name: str) -> Any:
    try:
        array = array if hasattr(array, "__cuda_array_interface__") else np.asarray(array)
    except ValueError:
        raise ShapeError(f"Input {name!r} was given a list of unequal shapes; all images must have shape {tensor.shape}.") from None
    if array.dtype.kind not in "fiub":
        raise ConfigError(f"Input {name!r} was given an array of type {array.dtype}; it takes numbers.")
    if tensor.dtype is not None and array.dtype.kind not in "iu":
        raise ConfigError(f"Input {name!r} was given an array of type {array.dtype}; it takes whole numbers ({tensor.dtype}).")
    if array.shape == tensor.shape:
        raise ShapeError(f"Input {name!r} was given a single image of shape {array.shape}; it needs a batch axis in front: image[None].")
    if array.shape[1:] != tensor.shape or array.ndim != len(tensor.shape) + 1:
        raise ShapeError(f"Input {name!r} was given shape {array.shape}; it needs (N, {', '.join(map(str, tensor.shape))}).")
    return array


def _checked_batch_size(size: Any) -> int:
    if not is_integer(size, 1):
        raise ConfigError(f"A batch size of {size!r} was asked for; it must be a whole number of at least 1.")
    return int(size)


def _is_working_type(dtype: Any) -> bool:
    try:
        return dtype is not None and str(np.dtype(dtype)) in DTYPES
    except TypeError:
        return False


def _expected_threads() -> int:
    """Threads of a launch, for estimates: Numba isn't imported for the answer."""
    jit = sys.modules.get("numbacnn.kernels.jit")
    if jit is not None:
        return jit.num_threads()
    if "NUMBA_NUM_THREADS" in os.environ:
        return max(1, int(os.environ["NUMBA_NUM_THREADS"]))
    return core_count()


def load(path: str | Path) -> Model:
    """The model that :meth:`Model.save` wrote."""
    from .weights import files

    config, weights = files.load_parts(path)
    model = Model.from_config(config)
    files.assign(model, weights)
    return model


def create(name: str, weights: str | Path | None = None, **options: Any) -> Model:
    """A registered architecture, such as ``create("lenet5", input_shape=(28, 28, 1), classes=10, seed=0)``.

    ``weights`` is the path of a file, as :meth:`Model.load_weights` takes them, or the name of weights that can be had for the
    architecture: ``create("resnet50", weights="imagenet")``. These come from the cache folder, from an installed package, or from a
    checked download, and with them come ``model.preprocessing``, the names of ``model.classes``, and the size of images unless ``options``
    has an ``input_shape``. With another number of ``classes`` the last layer is a new one.

    Raises UnknownNameError for names that nobody knows, ConfigError for options that the architecture does not take, WeightsError for
    weights that are not to be had, or do not fit."""
    from .plugin import registry
    from .weights import pretrained

    architecture = registry.load("architecture", name)
    given = None if weights is None else pretrained.resolve(name, weights)
    if given is not None:
        options = {**given.options, **options}
    try:
        model = architecture(**options)
    except TypeError as error:
        if error.__traceback__ is None or error.__traceback__.tb_next is not None:
            raise
        raise ConfigError(f"The architecture {name!r} does not take these options: {error}.") from None
    model.architecture = name
    if given is not None:
        given.load_into(model)
    return model

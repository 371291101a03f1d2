"""The layer protocol: what a graph node is, and what the planner may ask of it.

A layer is a frozen dataclass. Its fields are its configuration, which is printed, compared and saved; it holds no
array. The graph owns every array and hands them to ``forward`` and ``backward``.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, ClassVar

from ..errors import ConfigError, ShapeError

GATHERED = "gathered"
"""The name, in the arrays of both, of statistics that one layer finds for another (see :meth:`Layer.statistics_parts`)."""

Shape = tuple[int, ...]
"""A shape without the batch axis, channels last, such as ``(height, width, channels)``."""


@dataclasses.dataclass(frozen=True)
class Parameter:
    """An array that a layer learns (or, not ``trainable``, keeps: running statistics).

    ``initializer`` is a name of :data:`numbacnn.layers.initializers.INITIALIZERS` or an
    :class:`~numbacnn.layers.initializers.Initializer`.
    ``decay`` is False for parameters that weight decay usually spares (biases, normalisation).
    """

    shape: Shape
    initializer: Any = "zeros"
    trainable: bool = True
    decay: bool = True


@dataclasses.dataclass(frozen=True)
class Buffer:
    """An array that the planner provides. ``per_sample`` puts the batch axis in front of ``shape``;
    ``dtype`` is NumPy's, or its name; None means the working type of the model."""

    shape: Shape
    dtype: Any = None
    per_sample: bool = True


@dataclasses.dataclass(frozen=True)
class Methods:
    """The ways in which a layer can run on one shape of input, for measuring to choose from.

    ``layers`` has, by the name of the way, the layer that runs so; ``default`` is the name of that which is taken unless one was measured
    to be faster. ``key`` says all that the fastest depends on besides the machine: layers with one key share a choice. Names and keys are
    kept on disk.
    """

    key: str
    default: str
    layers: dict[str, Layer]


class Layer:
    """Base of all layers.

    Class attributes that differ from the defaults below are part of the protocol:

    ``input_dtype``     type of its inputs where it is not the model's working type: ``"int64"`` for whole numbers, such as the
                        ids that an Embedding takes. Such inputs have no gradient.
    ``arity``           number of inputs; None means any number from one on. With ``arity == 1`` methods get one shape
                        or array; otherwise tuples of them.
    ``backward_reads``  which of ``"x"`` and ``"y"`` the backward pass reads; the others arrive as None, so that the
                        planner can free or reuse their memory.
    ``in_place``        ``forward`` works when ``y`` is ``x``, and ``backward`` when ``dx`` is ``dy``. The planner
                        makes them so wherever nobody else needs the old values. Of several inputs ``y`` may be any
                        one of the same shape (the planner takes the first or second), and any one entry of ``dx`` may be ``dy``.
    ``adds_gradients``  ``backward`` of a layer with one input takes a further argument ``adds``, False by default: where it is True, what
                        would overwrite ``dx`` is added to what is there. Where several layers read one tensor, that saves passes over
                        memory.
    ``prepared_for_forward``  ``backward`` does not read the arrays of :meth:`prepared`. In training they then share memory with
                        what is needed at other times.
    ``alias``           ``y`` is ``x`` seen in another shape (Flatten, Reshape): ``forward`` and ``backward`` are
                        never called, the planner makes a view.
    ``reads_views``     in inference, ``forward`` may be given inputs that are some channels of a wider array: channels are dense, but
                        pixels have gaps between them. Others are never given such inputs.
    ``writes_views``    likewise of outputs.
    ``concatenates``    ``y`` is the inputs one after the other. ``forward`` leaves alone what lies in its place in ``y`` already, as
                        the planner lets inputs do where ``reads_views`` and ``writes_views`` of the layers around allow it.
    ``splits``          the outputs are ``x``, cut, one after the other. ``forward`` leaves alone those that lie in ``x``.
    ``random``          in training, ``b["random"]`` is a uint64 array ``(key, step)`` that is new at every step, and ``b["first"]``
                        an int64 array of one number: how many samples of the step were in micro-batches before this one (0 without
                        gradient accumulation). What is drawn follows from these and the place in the batch; where that counts
                        from ``first`` on, micro-batches draw what the whole batch would. Both arrays stay as they are.
    ``recordable``      ``forward`` and ``backward`` do nothing but shape arithmetic and calls of kernels. The planner
                        then calls them once, keeps the kernel calls, and afterwards runs only those.
    ``fusable``         the layer can compute what follows it: it has a field ``activation``, which the planner turns into a
                        layer of its own or into the epilogue, and :meth:`with_epilogue`. ``layers/epilogue.py`` says what
                        that means, and has a base class that brings it along.
    ``foldable``        in inference ``y`` is ``x * scale + shift`` per channel (batch norm), see :meth:`channel_affine`:
                        folded into the convolution before it.
    ``elementwise``     the layer has ``scalar``, the Python function of one number that it applies to each element (see
                        ``layers/activation.py``): fused into an epilogue.
    ``residual_sum``    the layer is ``x[0] + x[1]``, which an epilogue may take over.
    ``cuda``            where what computes the layer on a GPU is found, as ``"package.module:Class"`` of a subclass of
                        :class:`numbacnn.layers.cuda.twin.Twin`. A layer without one runs on the CPU only.
    ``takes_statistics``  ``forward``, in training, takes statistics of its first input from the layer that makes that, if this can gather
                        them while it writes (see :meth:`behind`).
    ``inference_identity``  in inference ``y`` is ``x`` (Dropout): the layer is left out.
    ``stem``            of automatic names: ``"conv"`` gives ``conv1``, ``conv2``... in a model.
    ``version``         of the layer's configuration, written into saved models.
    """

    input_dtype: ClassVar[str | None] = None
    arity: ClassVar[int | None] = 1
    backward_reads: ClassVar[tuple[str, ...]] = ("x", "y")
    in_place: ClassVar[bool] = False
    adds_gradients: ClassVar[bool] = False
    prepared_for_forward: ClassVar[bool] = False
    alias: ClassVar[bool] = False
    reads_views: ClassVar[bool] = False
    writes_views: ClassVar[bool] = False
    concatenates: ClassVar[bool] = False
    splits: ClassVar[bool] = False
    random: ClassVar[bool] = False
    recordable: ClassVar[bool] = False
    fusable: ClassVar[bool] = False
    foldable: ClassVar[bool] = False
    elementwise: ClassVar[bool] = False
    residual_sum: ClassVar[bool] = False
    takes_statistics: ClassVar[bool] = False
    inference_identity: ClassVar[bool] = False
    cuda: ClassVar[str | None] = None
    stem: ClassVar[str] = "layer"
    version: ClassVar[int] = 1

    # What the author of a layer fills in -----------------------------------------------------------------------------

    def output_shape(self, x: Any) -> Any:
        """Shape of the output for input shape(s) ``x``, without the batch axis. A list of shapes means several
        outputs. No shape is empty, and no axis is 0. Pure arithmetic. Raises ShapeError with what was given, what is
        needed and why; the graph puts the layer's name in front."""
        return x

    def parameters(self, x: Any) -> dict[str, Parameter]:
        """Parameters by name for input shape(s) ``x``."""
        return {}

    def buffers(self, x: Any) -> dict[str, Buffer]:
        """Arrays that ``forward`` (in training) leaves for ``backward``, by name."""
        return {}

    def scratch(self, x: Any, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        """Arrays whose contents matter only during one call of ``forward`` or ``backward``, by name."""
        return {}

    def prepared(self, x: Any, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        """Arrays derived from the parameters alone (packed weights), by name; filled by :meth:`prepare`."""
        return {}

    def prepare(self, x: Any, batch: int, p: dict, b: dict, training: bool) -> None:
        """Fill the arrays of :meth:`prepared`, after every change of the parameters. ``x`` are input shape(s)."""

    def packing(self, x: Any, batch: int) -> Any:
        """How the arrays of :meth:`prepared` are made for inference on ``batch`` inputs of shape(s) ``x``, as a value that can be hashed:
        where it is equal for two batch sizes, whatever the number of threads, they hold the same, and ``forward`` reads the same parameters
        besides. Plans then share these arrays. None: they are never shared."""
        return None

    def with_packing(self, x: Any, packing: Any) -> Layer:
        """This layer as it runs, in inference and on batches of any size, with the arrays of that :meth:`packing`, which is one of its own
        for some batch size."""
        return self

    def forward(self, x: Any, y: Any, p: dict, b: dict, training: bool) -> None:
        """Fill ``y`` from ``x``. Arrays have the batch axis first and are C-contiguous, but for what ``reads_views`` and ``writes_views``
        allow; ``p`` are the parameters, ``b`` the buffers, scratch and prepared arrays, by name."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward")

    def backward(self, x: Any, y: Any, dy: Any, dx: Any, p: dict, dp: dict, b: dict) -> None:
        """Overwrite ``dx`` and the arrays in ``dp``. ``dx`` (or an entry of it) is None where no gradient is
        wanted, and ``dp`` lacks frozen parameters. The graph does all accumulation."""
        raise NotImplementedError(f"{type(self).__name__} does not define backward")

    def repeatable(self, x: Any) -> bool:
        """Whether :meth:`forward_again` may be called, on inputs of shape(s) ``x``; the outputs of other layers are always kept. By default
        that holds for recordable layers without state (parameters that are not learned), and for those that define ``forward_again``."""
        if type(self).forward_again is not Layer.forward_again:
            return True
        return self.recordable and all(parameter.trainable for parameter in self.parameters(x).values())

    def forward_again(self, x: Any, y: Any, p: dict, b: dict) -> None:
        """With recomputation, fill ``y`` once more after the ``forward`` of a training step, from the same ``x`` and ``p``: with the same
        bits, and without a change of parameters that are not learned. Called where ``y`` was not kept, maybe several times before
        ``backward``.

        By default that is ``forward``, which fills the buffers too. A layer that defines this method, such as one with running statistics,
        finds the buffers as ``forward`` left them, and leaves them alone."""
        self.forward(x, y, p, b, True)

    def statistics_parts(self, x: Any, batch: int) -> int:
        """For input shape(s) ``x``: how many parts of the statistics of its output ``forward``, in training, leaves in ``b["gathered"]``,
        where that is there; 0: it leaves none. ``gathered (4, 1, parts, channels)`` holds for each part, whatever the number of threads,
        how many numbers there are, a shift, and the sums of what they differ from it by and of the squares of that."""
        return 0

    def behind(self, maker: Layer, x: Any) -> Layer:
        """Of a layer that ``takes_statistics``: this one behind the ``maker`` of its first input, which has input shape(s) ``x``. It has
        scratch called ``gathered`` for them, if there are :meth:`statistics_parts`."""
        raise NotImplementedError(f"{type(self).__name__} does not define behind")

    def with_fixed_state(self) -> Layer:
        """This layer as it is trained while its state (parameters that are not learned, such as running statistics) is frozen."""
        return self

    def channel_affine(self, p: dict) -> tuple[Any, Any]:
        """Of a ``foldable`` layer: ``(scale, shift)``, one number per channel each, from its parameters ``p``."""
        raise NotImplementedError(f"{type(self).__name__} does not define channel_affine")

    def with_epilogue(self, activation: Layer | None, residual: bool, scale_shift: bool) -> Layer:
        """Of a ``fusable`` layer: one that computes ``activation(layer(x) * fold_scale + fold_shift + residual)``, for inference
        (see ``layers/epilogue.py``)."""
        raise NotImplementedError(
            f"{type(self).__name__} is fusable but does not define with_epilogue; the base class numbacnn.layers.epilogue.Fusable does"
        )

    def inference_methods(self, x: Any, batch: int, threads: int, dtype: Any) -> Methods | None:
        """The ways in which this layer can run in inference, on ``batch`` inputs of shape(s) ``x`` in working type ``dtype``; None where
        there is only one."""
        return None

    def flops(self, x: Any) -> int:
        """Floating-point operations of one sample's forward pass; a multiply-add counts as two."""
        return 0

    def window(self, x: Any) -> tuple[Shape, Shape, Shape] | None:
        """``(extent, stride, leading padding)`` per spatial axis of a layer that slides over its input (extent is
        ``dilation * (kernel - 1) + 1``), for the receptive field; None for a layer that works point by point."""
        return None

    def torch_order(self, name: str, axes: int) -> Shape:
        """The order of axes in which PyTorch keeps the parameter ``name``, for checkpoints: a permutation, as ``transpose`` takes it."""
        return tuple(range(axes))

    # What all layers have --------------------------------------------------------------------------------------------

    def __call__(self, *inputs: Any, name: str | None = None) -> Any:
        """Apply to symbolic tensors and give the symbolic output(s). A layer that is called twice shares its
        parameters between both places."""
        if len(inputs) == 1 and isinstance(inputs[0], (list, tuple)):
            inputs = tuple(inputs[0])
        if not inputs or not all(hasattr(t, "apply_layer") for t in inputs):
            given = ", ".join(type(t).__name__ for t in inputs) or "nothing"
            raise ConfigError(f"{self.label(name)} was called with {given}; it takes symbolic tensors, such as nc.Input((32, 32, 3)).")
        if self.arity is not None and len(inputs) != self.arity:
            raise ShapeError(f"{self.label(name)} takes {self.arity} input(s), {len(inputs)} were given.")
        return inputs[0].apply_layer(self, inputs, name)

    def label(self, name: str | None = None) -> str:
        """How messages speak of this layer."""
        return f"{type(self).__name__} layer {name!r}" if name else f"{type(self).__name__} layer"

    def config(self) -> dict[str, Any]:
        """The fields by name: what makes an equal layer, ``type(layer)(**layer.config())``."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]


def gathers(layer: Layer) -> bool:
    """Whether a layer may gather statistics of what it writes. One that computes in another way than the class whose
    ``statistics_parts`` it has does not."""
    return declared(type(layer), "forward", "run", name="statistics_parts") not in (None, Layer.statistics_parts)


def declared(kind: type, *methods: str, name: str = "cuda") -> Any:
    """What a class says by that name, in ``cuda`` if nothing is given, unless it or a base between defines one of the methods anew, and so
    changes what is computed."""
    for base in kind.__mro__:
        if name in vars(base):
            return vars(base)[name]
        if any(method in vars(base) for method in methods):
            return None
    return None


def document(classes: tuple[type, ...], common: type) -> None:
    """Put what the classes share behind what tells them apart."""
    for each in classes:
        each.__doc__ = f"{inspect.getdoc(each)}\n\n{inspect.getdoc(common)}"

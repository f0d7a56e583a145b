"""A model from an exported program (`.pt2`), its operators made layers again.

An exported program is a graph of operators that read weights by name.  Where an operator and its
weights are what a `Linear`, a convolution, a norm or an embedding computes, that module takes its
place under the name that it had, so that it can be found and treated like any other.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from autocompress.errors import TaskError
from autocompress.model.task import Inputs
from autocompress.model.trace import run

CLOSE = 1e-4  # of the largest output, by which one example may differ alone and in a batch
_SPATIAL = ("stride", "padding", "dilation")
_LOADS = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "0"}
_HOW_TO = (
    "torch.export.export(model.eval(), (example,),"
    ' dynamic_shapes=({0: torch.export.Dim("batch")},))'
)

_BATCH_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}

Values = Mapping[str, Any]
Make = Callable[[Values], nn.Module]


def load_exported(path: Path | str) -> nn.Module:
    """The model of a file that `torch.export.save` wrote.

    Of pickles in the file only tensors are read.

    Args:
        path: File ending in `.pt2`, exported in evaluation mode with a free batch dimension.

    Returns:
        A module in evaluation mode.

    Raises:
        TaskError: If the file cannot be read, was exported in training mode or for one batch size
            only, or holds no layer; says what to do.
    """
    program = _read(Path(path))
    positional, named = program.example_inputs or ((), {})
    if named:
        raise TaskError(
            f"{path}: was exported with inputs by name ({', '.join(named)}); export it with all of"
            " them in a tuple, in the order of forward()"
        )
    module = program.module()
    graph = _plain_graph(module)
    if training := _training_operator(graph):
        raise TaskError(
            f"{path}: {training} was exported in training mode: call model.eval() before"
            " torch.export.export"
        )
    if not _restore(module, graph):
        raise TaskError(
            f"{path}: no operator was found that a Linear, convolution, norm or embedding computes"
            " from weights of its own, so there is nothing to compress (was it decomposed?)"
        )
    model = fx.GraphModule(module, graph, "Exported").eval()
    if positional and all(isinstance(value, Tensor) for value in positional):
        _check_batch(model, positional, str(path))
    return model


def exported_inputs(path: Path | str) -> dict[str, str]:
    """Each input of an exported program in words, such as `float32 (n, 1, 28, 28)`, by its name.

    Raises:
        TaskError: If the file cannot be read.
    """
    program = _read(Path(path))
    named = set(program.graph_signature.user_inputs)
    described = {}
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and node.name in named and isinstance(value, Tensor):
            sizes = ["n", *(str(size) for size in value.shape[1:])]
            kind = str(value.dtype).removeprefix("torch.")
            described[node.name] = f"{kind} ({', '.join(sizes)}{',' * (len(sizes) == 1)})"
    return described


def _read(path: Path) -> torch.export.ExportedProgram:
    if not path.is_file():
        raise TaskError(f"{path}: no such file")
    try:
        with warnings.catch_warnings(), _tensors_only():
            warnings.simplefilter("ignore")
            return torch.export.load(path)
    except Exception as error:  # a damaged file makes torch raise what it likes
        text = str(error).strip().partition("\n")[0]
        raise TaskError(
            f"{path}: cannot be read as an exported program (torch.export.save writes them):"
            f" {type(error).__name__}: {text}"
        ) from error


@contextlib.contextmanager
def _tensors_only() -> Iterator[None]:
    """Keeps `torch.load` from running code: a program holds pickles of tensors, and of whatever
    else a stranger has put there."""
    before = {key: os.environ.get(key) for key in _LOADS}
    os.environ.update(_LOADS)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def _plain_graph(module: fx.GraphModule) -> fx.Graph:
    """The graph with tensors in and a tensor out, no trees of them, and without the check of input
    shapes, which is bound to the module's own class."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.op == "call_module" and node.target == "_guards_fn":
            graph.erase_node(node)
    (outputs,) = graph.output_node().args
    if isinstance(outputs, (tuple, list)) and len(outputs) == 1:
        graph.output_node().args = (outputs[0],)
    graph.set_codegen(fx.graph.CodeGen())
    return graph


def _training_operator(graph: fx.Graph) -> str:
    """An operator that behaves as in training; empty when there is none."""
    for node in graph.nodes:
        values = _values(node)
        if values.get("train") is True or values.get("training") is True:
            return str(node.target)
    return ""


def _restore(module: nn.Module, graph: fx.Graph) -> int:
    """Puts modules into the place of operators; how many."""
    readers: dict[str, list[fx.Node]] = defaultdict(list)  # owner of weights to who reads them
    for node in graph.nodes:
        if node.op == "get_attr":
            readers[str(node.target).rpartition(".")[0]] += node.users
    restored = 0
    for owner, nodes in readers.items():
        calls = list(dict.fromkeys(nodes))
        layer = _layer(module, owner, calls)
        if layer is None:
            continue
        parent, _, name = owner.rpartition(".")
        setattr(module.get_submodule(parent), name, layer)
        for node in calls:
            with graph.inserting_before(node):
                call = graph.call_module(owner, (_input(node),))
            call.meta = dict(node.meta)
            node.replace_all_uses_with(call)
            graph.erase_node(node)
        restored += 1
    graph.eliminate_dead_code()
    for node in list(graph.nodes):  # weights that only restored modules read, counters of norms
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)
    return restored


def _layer(module: nn.Module, owner: str, calls: list[fx.Node]) -> nn.Module | None:
    """The module that computes every one of the calls; None where there is none."""
    if not owner or not calls or any(True for _ in module.get_submodule(owner).children()):
        return None
    made = []
    for node in calls:
        make, values, reads = _MAKERS.get(_operator(node)), _values(node), _input(node)
        if make is None or reads is None or not _owns(owner, values, reads):
            return None
        known = {
            name: _tensor(module, value) if isinstance(value, fx.Node) else value
            for name, value in values.items()
            if value is not reads
        }
        made.append(make(known | {"dimensions": reads.meta["val"].dim()}))
    alike = len({repr(layer) for layer in made}) == 1
    return made[0] if alike else None


def _owns(owner: str, values: Values, reads: fx.Node) -> bool:
    """Whether all that a call reads beside its input are the owner's weights, in their places."""
    weights = {k: v for k, v in values.items() if isinstance(v, fx.Node) and v is not reads}
    return "weight" in weights and all(
        node.op == "get_attr" and node.target == f"{owner}.{name}"
        for name, node in weights.items()
    )


def _operator(node: fx.Node) -> str:
    return node.target._opname if isinstance(node.target, torch._ops.OpOverload) else ""


def _input(node: fx.Node) -> fx.Node | None:
    """What a layer's operator is applied to; None where that is no value of the graph."""
    values = _values(node)
    found = values.get("indices", values.get("input"))
    return found if isinstance(found, fx.Node) else None


def _values(node: fx.Node) -> dict[str, Any]:
    """Arguments of an operator by name, defaults included."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return {}
    arguments = node.target._schema.arguments
    values = {a.name: a.default_value for a in arguments if a.has_default_value()}
    values |= {a.name: value for a, value in zip(arguments, node.args, strict=False)}
    return values | node.kwargs


def _tensor(module: nn.Module, node: fx.Node) -> Tensor:
    owner, _, name = str(node.target).rpartition(".")
    return getattr(module.get_submodule(owner), name)  # type: ignore[no-any-return]


def _with_tensors(layer: nn.Module, values: Values) -> nn.Module:
    """The layer, built without memory of its own, with the tensors of the program."""
    for name in ("weight", "bias", "running_mean", "running_var"):
        tensor = values.get(name)
        if tensor is None:
            continue
        if name in layer._parameters and not isinstance(tensor, nn.Parameter):
            tensor = nn.Parameter(tensor, requires_grad=False)
        setattr(layer, name, tensor)
    return layer


def _linear(values: Values) -> nn.Module:
    rows, columns = values["weight"].shape
    has_bias = values["bias"] is not None
    return _with_tensors(nn.Linear(columns, rows, has_bias, device="meta"), values)


def _convolution(kind: type[nn.Conv1d | nn.Conv2d | nn.Conv3d]) -> Make:
    def make(values: Values) -> nn.Module:
        outputs, inputs, *kernel = values["weight"].shape
        spatial = {name: _sizes(values[name], len(kernel)) for name in _SPATIAL}
        layer = kind(
            inputs * values["groups"],
            outputs,
            tuple(kernel),
            groups=values["groups"],
            bias=values["bias"] is not None,
            device="meta",
            **spatial,
        )
        return _with_tensors(layer, values)

    return make


def _sizes(value: Any, dimensions: int) -> Any:
    """One number a dimension; a padding in words as it is."""
    if isinstance(value, str):
        return value
    return tuple(value) if len(value) == dimensions else tuple(value) * dimensions


def _batch_norm(values: Values) -> nn.Module:
    kind = _BATCH_NORMS[values["dimensions"]]
    layer = kind(len(values["weight"]), values["eps"], values["momentum"], device="meta")
    layer.num_batches_tracked = torch.zeros((), dtype=torch.long)
    return _with_tensors(layer, values)


def _layer_norm(values: Values) -> nn.Module:
    has_bias = values["bias"] is not None
    shape = list(values["normalized_shape"])
    return _with_tensors(nn.LayerNorm(shape, values["eps"], bias=has_bias, device="meta"), values)


def _embedding(values: Values) -> nn.Module:
    rows, columns = values["weight"].shape
    return _with_tensors(nn.Embedding(rows, columns, device="meta"), values)


_MAKERS: dict[str, Make] = {
    "linear": _linear,
    "conv1d": _convolution(nn.Conv1d),
    "conv2d": _convolution(nn.Conv2d),
    "conv3d": _convolution(nn.Conv3d),
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "embedding": _embedding,
}


def _check_batch(model: nn.Module, inputs: Inputs, origin: str) -> None:
    """Refuses a program that was exported for one batch size only.

    Raises:
        TaskError: If twice the batch does not give twice the outputs.
    """
    twice = tuple(torch.cat([tensor, tensor]) for tensor in inputs)
    alone = run(model, inputs)
    advice = f"it was exported for {len(inputs[0])} only; export it with {_HOW_TO}"
    try:
        both = run(model, twice)
    except TaskError as error:
        raise TaskError(f"{origin}: takes no batch of {len(twice[0])}: {advice}") from error
    if not isinstance(alone, Tensor):
        return
    wanted = torch.cat([alone, alone])
    room = CLOSE * float(wanted.abs().max())
    if both.shape != wanted.shape or float((both - wanted).abs().max()) > room:
        raise TaskError(f"{origin}: gives wrong outputs for a batch of {len(twice[0])}: {advice}")

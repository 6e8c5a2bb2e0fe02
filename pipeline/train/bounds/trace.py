"""What every node of a network did on a batch: the values, and the operations that bounds are sent through."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, fx, nn

from secateur.formats.errors import UnsupportedError
from secateur.pipeline import onnxgraph
from secateur.pipeline.train.bounds.rules import Affine, Call, Operation, Relu, Unknown, operation
from secateur.pipeline.train.graph import TrainableGraph


@dataclass(frozen=True, eq=False)
class Node:
    """A node that depends on the network's input: what it does (None: it is the input), to the values at which
    positions of the trace, and its own value [N, *shape]."""

    name: str
    operation: Operation | None
    inputs: tuple[int, ...]
    value: Tensor


@dataclass(frozen=True, eq=False)
class Trace:
    """Nodes in topological order, the input first; `output` is the position of the network's."""

    nodes: tuple[Node, ...]
    output: int

    @property
    def logits(self) -> Tensor:
        """The network's outputs [N, classes] on the batch."""
        return self.nodes[self.output].value.flatten(1)

    @cached_property
    def relus(self) -> tuple[int, ...]:
        """Positions of the ReLUs, in order."""
        return tuple(i for i, node in enumerate(self.nodes) if isinstance(node.operation, Relu))

    def scale(self, relu: int) -> Tensor | None:
        """γ of the BatchNormalization right in front of the ReLU at `relu`, broadcastable to its argument; None where
        another operator stands there."""
        (source,) = self.nodes[relu].inputs
        found = self.nodes[source].operation
        return found.scale if isinstance(found, Affine) else None


def trace(graph: TrainableGraph, x: Tensor) -> Trace:
    """Run the network on a batch x [N, *input shape]; in training mode its BatchNormalization statistics move.

    Raises:
        UnsupportedError: an operator without a rule, by name of its node; a value whose first axis is not the batch's.
    """
    result: Trace = graph.within(lambda module: _trace(graph, module, x))
    return result


class _Recorder(fx.Interpreter):
    """Keeps the value of every node."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = self.values[n] = super().run_node(n)
        return value


def _trace(graph: TrainableGraph, module: nn.Module, x: Tensor) -> Trace:
    assert isinstance(module, fx.GraphModule)
    recorder = _Recorder(module)
    recorder.run(x)
    nodes: list[Node] = []
    position: dict[fx.Node, int] = {}
    for node in module.graph.nodes:
        value = recorder.values[node]
        sources = [item for item in node.all_input_nodes if item in position]
        if node.op == "output":
            (source,) = sources
            return Trace(tuple(nodes), position[source])
        if node.op == "placeholder":
            position[node] = len(nodes)
            nodes.append(Node(node.name, None, (), value))
        elif sources and not (isinstance(value, Tensor) and not value.is_floating_point()):
            index = int(str(node.target)[1:]) if node.op == "call_module" else None
            label = onnxgraph.label(graph.nodes[index]) if index is not None else str(node)
            try:
                if index is None or not isinstance(value, Tensor):
                    raise Unknown("several outputs")
                if value.shape[:1] != x.shape[:1]:
                    raise Unknown(f"its value {list(value.shape)} does not keep the batch of {len(x)} apart")
                varying = tuple(place for place, item in enumerate(node.args) if item in position)
                arguments = tuple(
                    recorder.values[item] if isinstance(item, fx.Node) else item for item in node.args
                )
                call = Call(module.get_submodule(f"n{index}"), arguments, varying, value)
                done = operation(graph.nodes[index].op_type, call)
            except Unknown as reason:
                raise UnsupportedError(
                    f"{label} has no bounds to train with: {reason}",
                    where=graph.name,
                    hint="the objectives standard and adversarial need none",
                ) from None
            position[node] = len(nodes)
            inputs = tuple(position[item] for item in node.args if item in position)
            nodes.append(Node(label, done, inputs, value))
    raise AssertionError("a graph without an output")

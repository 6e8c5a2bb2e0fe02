"""The network as a differentiable function of its weights, and its loss on the samples, for criteria that need them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import onnx
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from secateur.formats import onnx_model
from secateur.formats.errors import InputError, UnsupportedError
from secateur.formats.onnx_model import Model
from secateur.pipeline import compute, onnxgraph, onnxrt
from secateur.pipeline.prune.criteria.context import Context
from secateur.pipeline.train.attacks import attack_images
from secateur.pipeline.train.graph import TrainableGraph

BATCH = 128


@contextmanager
def network(context: Context) -> Iterator[TrainableGraph]:
    """The network in evaluation mode, up to its logits; within, torch is deterministic.

    Raises:
        UnsupportedError: an operator that cannot be differentiated, a scored weight that gradients do not reach.
    """
    with compute.deterministic(context.device, context.seed):
        graph = TrainableGraph(_to_logits(context.model), context.device)
        for layer in context.layers:
            if layer.weight not in graph.parameters:
                raise UnsupportedError(
                    f"no gradient reaches the weight '{layer.weight}' of {onnxgraph.label(layer.node)}",
                    where=context.model.name,
                )
        yield graph


@dataclass(frozen=True)
class Batches:
    """The samples, in batches; the same images whenever they are gone through.

    With a positive ε every batch is attacked first (FGSM for one step, PGD for more) on the network as it is.
    """

    graph: TrainableGraph
    x: Tensor
    y: Tensor
    epsilon: float
    steps: int
    seed: int

    @staticmethod
    def of(context: Context, graph: TrainableGraph, purpose: str) -> Batches:
        """By the options `loss` and `attack-steps`, where the criterion has them.

        Raises:
            InputError: no labels, labels that are no outputs of the network, no ε for the robust loss.
        """
        labels = context.labels(purpose)
        outputs = onnxrt.count_outputs(context.model)
        if labels.max() >= outputs:
            raise InputError(
                f"the network has {outputs} outputs, the data a label {labels.max()}",
                where=context.model.name,
            )
        robust = context.options.get("loss") == "robust"
        epsilon = context.radius("the robust loss") if robust else 0.0
        x = graph.inputs(context.samples(purpose).images)
        y = torch.as_tensor(labels, device=graph.device)
        return Batches(graph, x, y, epsilon, context.options.get("attack-steps", 1), context.seed)

    def __len__(self) -> int:
        return len(self.x)

    def split(self, size: int = BATCH, order: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels of each batch, in `order` (default: as they come)."""
        generator = torch.Generator().manual_seed(self.seed)
        everything = torch.arange(len(self.x)) if order is None else order
        for chosen in torch.split(everything, size):
            images, labels = self.x[chosen.to(self.x.device)], self.y[chosen.to(self.y.device)]
            if self.epsilon:
                images = attack_images(self.graph, images, labels, self.epsilon, self.steps, generator)
            yield images, labels


def gradients(
    graph: TrainableGraph,
    names: list[str],
    x: Tensor,
    y: Tensor,
    *,
    temperature: float = 1.0,
    create_graph: bool = False,
) -> list[Tensor]:
    """Of the mean cross-entropy of logits / `temperature`, with respect to these weights."""
    loss = cross_entropy(graph(x).flatten(1) / temperature, y)
    return list(
        torch.autograd.grad(
            loss,
            [graph.parameters[name] for name in names],
            create_graph=create_graph,
            materialize_grads=True,
        )
    )


def _to_logits(model: Model) -> Model:
    """The model without a Softmax as its last node: losses take logits."""
    output = model.graph.output[0].name
    last = next((node for node in model.graph.node if output in node.output), None)
    if last is None or last.op_type != "Softmax":
        return model
    proto = onnx.ModelProto.FromString(model.proto.SerializeToString())
    for node in proto.graph.node:
        if output in node.output:
            node.op_type = "Identity"
            del node.attribute[:]
    return onnx_model.from_proto(proto, model.name)

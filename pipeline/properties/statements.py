"""A property before it is a file: which networks, and a formula over their inputs and outputs.

The formula says when the property is *violated*: `sat` shows a violation, `unsat` proves that there is none. One
network has its inputs as X and outputs as Y; of two, the second has U and V.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

import onnx

from secateur.formats import vnnlib
from secateur.formats.errors import InputError, UnsupportedError
from secateur.formats.onnx_model import Model
from secateur.formats.query import NO_BOUNDS, And, Atom, Formula, Network, Or, Query
from secateur.pipeline import onnxrt, product
from secateur.pipeline.properties.boxes import ONE, ZERO, Balls, Box

_VARIABLES = (("f", "X", "Y"), ("g", "U", "V"))


@dataclass(frozen=True)
class Subject:
    """The networks that properties are about: their declarations, and a model each."""

    networks: tuple[Network, ...]
    models: tuple[Model, ...]

    @property
    def inputs(self) -> int:
        """Of the first network."""
        return self.networks[0].inputs

    @property
    def outputs(self) -> int:
        """Of the first network."""
        return self.networks[0].outputs


def about(*models: Model) -> Subject:
    """One network, or two: the second may be the first once more, or have its graph with other weights.

    Raises:
        UnsupportedError: a network with several inputs or outputs.
        InputError: two networks whose inputs or outputs differ in number.
    """
    networks: list[Network] = []
    for model, (name, x, y) in zip(models, _VARIABLES, strict=False):
        if len(model.inputs) != 1 or len(model.graph.output) != 1:
            found = f"{len(model.inputs)} inputs and {len(model.graph.output)} outputs"
            raise UnsupportedError(f"{found}: expected one of each", where=model.name)
        networks.append(product.declared(model, name, x, y))
    if len(networks) == 2:
        first, second = networks
        for what, ours, theirs in (
            ("inputs", first.inputs, second.inputs),
            ("outputs", first.outputs, second.outputs),
        ):
            if ours != theirs:
                raise InputError(f"{theirs} {what}: {models[0].name} has {ours}", where=models[1].name)
        if models[0].sha256 == models[1].sha256:
            networks[1] = replace(second, equal_to="f")
        elif _isomorphic(*(model.proto for model in models)):
            networks[1] = replace(second, isomorphic_to="f")
    return Subject(tuple(networks), models)


def _isomorphic(one: onnx.ModelProto, other: onnx.ModelProto) -> bool:
    """Whether two models differ in nothing but the values of their weights."""

    def skeleton(proto: onnx.ModelProto) -> tuple[object, ...]:
        graph = proto.graph
        nodes = tuple(node.SerializeToString(deterministic=True) for node in graph.node)
        weights = tuple((t.name, t.data_type, tuple(t.dims)) for t in graph.initializer)
        ends = tuple(v.SerializeToString(deterministic=True) for v in (*graph.input, *graph.output))
        return nodes, weights, ends

    return skeleton(one) == skeleton(other)


@dataclass(frozen=True)
class Property:
    """One property: its file name without ending, its networks, when it is violated, and comments for its file.

    `index` and `label` are those of the image it came from; `target` the class that the image must not be given, None
    when no other class is allowed.
    """

    name: str
    subject: Subject
    formula: And
    comments: tuple[str, ...]
    index: int | None = None
    label: int | None = None
    target: int | None = None

    @cached_property
    def text(self) -> str:
        """VNN-LIB 1.0 of one network, 2.0 of two."""
        subject = self.subject
        if len(subject.networks) > 1:
            return self.text_2_0
        return vnnlib.formula_text(self.formula, subject.inputs, subject.outputs, self.comments)

    @cached_property
    def text_2_0(self) -> str:
        query = Query(self.subject.networks, NO_BOUNDS, self.formula.parts, (), name=self.name)
        return vnnlib.to_text(query, self.comments, "2.0")

    @cached_property
    def query(self) -> Query:
        """The property as verifiers take it: `text`, read."""
        return vnnlib.parse(self.text, f"{self.name}.vnnlib")


@dataclass(frozen=True)
class PropertySet:
    """The properties of some images or boxes, and the images left out because the network gets them wrong."""

    properties: tuple[Property, ...]
    misclassified: tuple[int, ...] = ()

    @property
    def images(self) -> int:
        """How many images were looked at."""
        return len({one.index for one in self.properties} - {None}) + len(self.misclassified)


def stated(
    kind: str, subject: Subject, box: Box, formula: Iterable[Formula], violation: str, suffix: str = ""
) -> Property:
    """The property of that kind in a box that is violated where `formula` (its conjuncts) holds; `violation` says so
    to people."""
    return Property(
        f"{kind}_{box.name}{suffix}",
        subject,
        And(tuple(formula)),
        (box.about, f"sat: {violation}"),
        box.index,
        box.label,
    )


def boxes_of(where: Balls | Sequence[Box]) -> tuple[tuple[Box, ...], tuple[int, ...]]:
    """The boxes, and the images left out."""
    return (where.boxes, where.misclassified) if isinstance(where, Balls) else (tuple(where), ())


# --- parts of formulas ---------------------------------------------------------------------------------------


def at_least(more: int, less: int, by: Fraction = ZERO) -> Atom:
    """Output `more` is at least as large as output `less`, by `by`."""
    return Atom({}, {less: ONE, more: -ONE}, by)


def one_of(alternatives: Sequence[Formula]) -> Formula:
    """A disjunction of conjunctions, the form that most verifiers read; of one alternative, it alone."""
    if len(alternatives) == 1:
        return alternatives[0]
    return Or(tuple(part if isinstance(part, And) else And((part,)) for part in alternatives))


def equal(i: int, j: int) -> And:
    """Inputs i and j are equal."""
    return And((Atom({i: ONE, j: -ONE}, {}, ZERO), Atom({i: -ONE, j: ONE}, {}, ZERO)))


def tied(box: Box, free: Iterable[int] = ()) -> list[Formula]:
    """Two networks' inputs: the first's in the box, the second's equal to them but for those of `free`, which lie in
    the box, too."""
    loose = set(free)
    count = box.inputs
    ties: list[Formula] = [equal(i, count + i) for i in range(count) if i not in loose]
    own = [atom for i in sorted(loose) for atom in box.ends(i, count + i)]
    return [*box.formula().parts, *ties, *own]


def misclassified(label: int, others: Sequence[int], offset: int = 0) -> Formula:
    """Some class of `others` has an output as large as the label's; outputs are numbered from `offset`."""
    return one_of([at_least(offset + other, offset + label) for other in others])


def classes(subject: Subject) -> int:
    """How many classes the networks tell apart: an output each.

    Raises:
        InputError: fewer than two.
    """
    if subject.outputs < 2:
        raise InputError(
            f"the network has {subject.outputs} output: expected one a class", where=subject.models[0].name
        )
    return subject.outputs


def label_of(box: Box) -> int:
    """The class of the box's image.

    Raises:
        InputError: it is around no image.
    """
    if box.label is None:
        raise InputError(
            f"'{box.name}' is around no image: there is no class to keep", hint="give --data and --index"
        )
    return box.label


def outputs_at(model: Model, box: Box) -> list[Fraction]:
    """What `model` says of the box's image, exactly as onnxruntime has it.

    Raises:
        InputError: it is around no image.
    """
    if box.centre is None:
        raise InputError(
            f"'{box.name}' is around no image: there is nothing to compare with", hint="give --data"
        )
    return [Fraction(float(value)) for value in onnxrt.run(model, box.centre[None])[0]]

"""Monotonicity: when one input grows and the others stay, an output does not fall (or does not grow).

Two copies of the network see inputs that differ in one place; in the product network the others are shared.
"""

from __future__ import annotations

from collections.abc import Sequence

from secateur.formats.onnx_model import Model
from secateur.formats.query import Atom
from secateur.pipeline.properties.boxes import ONE, ZERO, Balls, Box
from secateur.pipeline.properties.numbers import Number, above_zero, in_name
from secateur.pipeline.properties.ranges import check_numbers
from secateur.pipeline.properties.statements import PropertySet, about, at_least, boxes_of, stated, tied


def monotone(
    model: Model,
    where: Balls | Sequence[Box],
    inputs: Sequence[int],
    outputs: Sequence[int],
    *,
    decreasing: bool = False,
    tolerance: Number = "0.001",
) -> PropertySet:
    """A property for each box, input and output: input up implies output up (down, when `decreasing`).

    Args:
        tolerance: a violation goes the wrong way by at least this much. It must be positive: equal inputs have equal
            outputs, and no bound could prove that they are not.

    Raises:
        InputError: an input or output that the network does not have, a tolerance that is not positive.
    """
    subject, (places, left_out) = about(model, model), boxes_of(where)
    least = above_zero(tolerance, "the tolerance")
    check_numbers(inputs, subject.inputs, "input", model)
    check_numbers(outputs, subject.outputs, "output", model)
    way, wrong = ("down", "grows") if decreasing else ("up", "falls")
    properties = []
    for box in places:
        for i in dict.fromkeys(inputs):
            grown = Atom({i: ONE, box.inputs + i: -ONE}, {}, ZERO)
            for j in dict.fromkeys(outputs):
                second = subject.outputs + j
                violation = at_least(second, j, least) if decreasing else at_least(j, second, least)
                said = f"input {i} grows and output {j} {wrong} by {in_name(least, '/')} or more"
                formula = [*tied(box, [i]), grown, violation]
                properties.append(stated("monotone", subject, box, formula, said, f"_x{i}_y{j}_{way}"))
    return PropertySet(tuple(properties), left_out)

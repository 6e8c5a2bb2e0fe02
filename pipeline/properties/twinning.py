"""Twins and equivalence: a dense and a pruned network, or any two files, do the same on the same inputs."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.formats.onnx_model import Model
from secateur.pipeline.properties.agreement import Agreement, RightToo, SameClass, agree
from secateur.pipeline.properties.boxes import Balls, Box
from secateur.pipeline.properties.statements import PropertySet, about


def twins(
    dense: Model, pruned: Model, where: Balls | Sequence[Box], agreement: Agreement | None = None
) -> PropertySet:
    """One property a box: right in `dense` implies right in `pruned`, or what `agreement` says.

    Raises:
        InputError: networks with different numbers of inputs or outputs.
    """
    return agree("twins", about(dense, pruned), where, agreement or RightToo())


def equivalent(
    first: Model, second: Model, where: Balls | Sequence[Box], agreement: Agreement | None = None
) -> PropertySet:
    """One property a box: both give the same class, or what `agreement` says.

    Raises:
        InputError: as `twins`.
    """
    return agree("equivalent", about(first, second), where, agreement or SameClass())

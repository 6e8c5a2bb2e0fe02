"""What a criterion is, what it may look at, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from secateur.formats.errors import InputError

if TYPE_CHECKING:  # the table of criteria is shown without importing onnx
    from secateur.formats.onnx_model import Model
    from secateur.pipeline.prune.layers import Layer

Unit = Literal["weight", "channel", "block"]
Need = Literal["data", "gradients", "bounds"]
Saliency = dict[str, NDArray[np.floating[Any]]]
"""Scores by weight initializer: of its shape (unit "weight") or [output channels] ("channel"); by name of the
residual branch, of shape () ("block"). Higher means keep. A layer without scores is left alone: see
`Criterion.without`. What `Context.keep` has dropped already may score anything."""


@dataclass(frozen=True)
class Samples:
    """Calibration samples: `images` float32 [n, *input shape] (or anything of as many elements), raw pixels; `labels`
    int64 [n], or None where there are none."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Option:
    """A criterion's own option. Its default decides the type: int, float or one of `choices`; numbers are at least
    `minimum`."""

    name: str
    default: int | float | str
    summary: str
    choices: tuple[str, ...] = ()
    minimum: float = 0

    def parse(self, text: str, criterion: str) -> int | float | str:
        """
        Raises:
            InputError: `text` is no value of this option.
        """
        value: int | float | str = text
        if self.choices:
            valid, expected = text in self.choices, f"one of {', '.join(self.choices)}"
        else:
            kind = type(self.default)
            expected = f"{'a whole number' if kind is int else 'a number'} of at least {self.minimum:g}"
            try:
                value = kind(text)
                valid = self.minimum <= float(value) < float("inf")
            except ValueError:
                valid = False
        if not valid:
            raise InputError(f"option {self.name}={text} of '{criterion}': expected {expected}")
        return value


@dataclass(frozen=True)
class Context:
    """What a criterion may look at.

    `model` is the network as it is now (zeros of earlier steps in place), `layers` those to be scored, `keep` the mask
    so far by weight initializer (a layer it leaves out is whole). `sparsity` is the share of units that will have gone
    after this step, for criteria that learn a mask of that size. `epsilon` is an ℓ∞ radius on raw pixels. `options`
    are the criterion's own: text as given by the user, parsed values with defaults filled in once `score` has checked
    them.
    """

    model: Model
    layers: tuple[Layer, ...]
    keep: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    seed: int = 0
    data: Samples | None = None
    epsilon: float | None = None
    device: str = "cpu"
    sparsity: float = 0.5
    options: Mapping[str, Any] = field(default_factory=dict)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """All initializers of the model by name, as arrays that may be written to."""
        from secateur.formats import onnx_model

        return {name: array.copy() for name, array in onnx_model.values(self.model).items()}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of all initializers."""
        return {tensor.name: tuple(tensor.dims) for tensor in self.model.light.graph.initializer}

    def samples(self, purpose: str = "the criterion") -> Samples:
        """The data.

        Raises:
            InputError: there are none; says that `purpose` needs them.
        """
        if self.data is None or not len(self.data):
            raise InputError(f"{purpose} needs data", where=self.model.name, hint="give --data")
        return self.data

    def labels(self, purpose: str = "the criterion") -> NDArray[np.int64]:
        """The data's labels.

        Raises:
            InputError: there are none.
        """
        labels = self.samples(purpose).labels
        if labels is None:
            raise InputError(f"{purpose} needs labelled data", where=self.model.name)
        return labels

    def radius(self, purpose: str = "the criterion") -> float:
        """ε.

        Raises:
            InputError: it was not given, or is not positive.
        """
        if self.epsilon is None or not 0 < self.epsilon < float("inf"):
            raise InputError(f"{purpose} needs a positive ε", where=self.model.name, hint="give --epsilon")
        return self.epsilon


@dataclass(frozen=True)
class Criterion:
    """A row of the table.

    `unit` is what `score` scores: single weights (which are reduced to any larger unit), output channels, or residual
    branches. `needs` says what it takes beside the weights. `reduction` and `normaliser` (see `reduce`) are those
    that its source uses for units larger than a weight, unless the caller chooses others. `without` says why a layer
    may get no scores, as "it has none, for …".
    """

    score: Callable[[Context], Saliency]
    unit: Unit
    summary: str
    source: str
    needs: frozenset[Need] = frozenset()
    options: tuple[Option, ...] = ()
    reduction: str = "mean"
    normaliser: str = "mean"
    without: str = ""

"""`.nnet`: fully connected ReLU networks as text, the format of Reluplex and of the ACAS Xu networks.

After comment lines (`//`) come, comma-separated: the numbers of layers, inputs, outputs and the largest layer's size;
all layers' sizes, the inputs' first; a flag that nobody uses; the inputs' minima; their maxima; means, and ranges, of
the inputs and (last) of all outputs; then each layer's weights, a line a row, and its biases, a line each. The last
layer has no ReLU. (K. Julian, github.com/sisl/NNet.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from secateur.formats import streams
from secateur.formats.errors import InputError

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Nnet:
    """Per layer a weight [outputs, inputs] and a bias [outputs]; `minima` and `maxima` [inputs] bound the inputs;
    `means` and `ranges` [inputs + 1] normalise inputs, (x − mean) / range, and the last entry all outputs back,
    y · range + mean."""

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    minima: Array
    maxima: Array
    means: Array
    ranges: Array
    comment: tuple[str, ...] = ()

    @property
    def sizes(self) -> list[int]:
        """Of all layers, the inputs' first."""
        return [self.weights[0].shape[1], *(len(bias) for bias in self.biases)]


def read(source: str) -> Nnet:
    """Read a path or `-`.

    Raises:
        InputError: the line at which it is malformed.
    """
    return from_bytes(streams.read_bytes(source), streams.display_name(source))


def from_bytes(data: bytes, name: str) -> Nnet:
    """As `read`, of bytes in memory."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"not text: byte {error.start} is no UTF-8", where=name) from None
    lines = _Lines(text, name)
    layers, inputs, outputs, _ = lines.integers(
        4, "the numbers of layers, inputs, outputs and the largest layer"
    )
    sizes = lines.integers(layers + 1, "the layers' sizes, the inputs' first")
    if sizes[0] != inputs or sizes[-1] != outputs:
        raise lines.error(f"expected {inputs} inputs and {outputs} outputs, found {sizes[0]} and {sizes[-1]}")
    lines.next("the unused flag")
    minima = lines.numbers(inputs, "the inputs' minima")
    maxima = lines.numbers(inputs, "the inputs' maxima")
    if (minima > maxima).any():
        raise lines.error(f"input {int(np.argmax(minima > maxima))} has a minimum above its maximum")
    means = lines.numbers(inputs + 1, "the inputs' means and the outputs'")
    ranges = lines.numbers(inputs + 1, "the inputs' ranges and the outputs'")
    if not (ranges != 0).all():
        raise lines.error("a range is 0: expected what one can divide by")
    weights, biases = [], []
    for index, (before, after) in enumerate(pairwise(sizes), 1):
        rows = [lines.numbers(before, f"row {row + 1} of layer {index}'s weights") for row in range(after)]
        column = [lines.numbers(1, f"bias {row + 1} of layer {index}") for row in range(after)]
        weights.append(np.stack(rows))
        biases.append(np.concatenate(column))
    lines.end()
    return Nnet(tuple(weights), tuple(biases), minima, maxima, means, ranges, tuple(lines.comment))


def write(nnet: Nnet, destination: str) -> None:
    """Write to a path (atomically; `.gz` compresses) or to standard output; every number reads back exactly."""
    streams.write_bytes(destination, to_bytes(nnet))


def to_bytes(nnet: Nnet) -> bytes:
    """What `write` writes."""
    return "".join(line + "\n" for line in _text(nnet)).encode()


def _text(nnet: Nnet) -> Iterator[str]:
    sizes = nnet.sizes
    yield from (f"// {line}" for line in nnet.comment or ("a fully connected ReLU network",))
    yield _row([len(sizes) - 1, sizes[0], sizes[-1], max(sizes)])
    yield _row(sizes)
    yield _row([0])
    for values in (nnet.minima, nnet.maxima, nnet.means, nnet.ranges):
        yield _row(values.tolist())
    for weight, bias in zip(nnet.weights, nnet.biases, strict=True):
        yield from (_row(row) for row in weight.tolist())
        yield from (_row([value]) for value in bias.tolist())


def _row(values: Sequence[float]) -> str:
    return "".join(f"{value!r}," for value in values)


class _Lines:
    """The lines that are neither empty nor comments, with their numbers for messages."""

    def __init__(self, text: str, name: str) -> None:
        numbered = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
        self.comment = [line.removeprefix("//").strip() for _, line in numbered if line.startswith("//")]
        self._rest = iter([(number, line) for number, line in numbered if line and not line.startswith("//")])
        self._name = name
        self._number = 0

    def error(self, message: str) -> InputError:
        return InputError(message, where=f"{self._name}, line {self._number}", hint="the format is .nnet")

    def next(self, what: str) -> list[str]:
        """The values of the next line."""
        self._number, line = next(self._rest, (self._number, ""))
        if not line:
            raise self.error(f"the file ends where {what} should follow")
        return [value.strip() for value in line.rstrip(",").split(",")]

    def numbers(self, count: int, what: str) -> Array:
        found = self.next(what)
        if len(found) != count:
            raise self.error(f"expected {count} values ({what}), found {len(found)}")
        values = np.zeros(count)
        for index, text in enumerate(found):
            try:
                values[index] = float(text)
            except ValueError:
                raise self.error(f"expected a number ({what}), found '{text}'") from None
        if not np.isfinite(values).all():
            raise self.error(f"expected finite numbers ({what})")
        return values

    def integers(self, count: int, what: str) -> list[int]:
        values = self.numbers(count, what)
        if not ((values == np.round(values)) & (values >= 1) & (values < 2**31)).all():
            raise self.error(f"expected positive whole numbers ({what})")
        return [int(value) for value in values]

    def end(self) -> None:
        found = next(self._rest, None)
        if found is not None:
            self._number = found[0]
            raise self.error("expected the end: all layers are read")

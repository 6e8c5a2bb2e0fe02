"""The verifier auto_lirpa: bounds by the library auto_LiRPA (Xu et al. 2020, "Automatic perturbation analysis for
scalable certified robustness and beyond"), as a second opinion that shares no code with the engine.

It is incomplete: "unsat" when linear bounds refute every clause, else "unknown"; it never says "sat". The network comes
from onnx2torch, not from the engine's own lowering, and is compared with onnxruntime first.

**What its "unsat" rests on.** auto_LiRPA computes in float64 here, but takes no account of rounding: a clause counts as
refuted only from a bound of MARGIN, relative to the numbers in it. That is a margin of experience, not a proof. And the
library may be wrong: it takes the first axis of every value for the batch, and gave wrong bounds where a network uses
that axis otherwise, so that such networks are refused; so are bounds that a sampled point violates.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.formats.errors import CheckFailed, SecateurError, UnsupportedError
from secateur.formats.onnx_model import Model
from secateur.formats.query import Query
from secateur.pipeline import onnxgraph, onnxrt, onnxtorch
from secateur.pipeline.verify.auto_lirpa.compat import library
from secateur.pipeline.verify.bounding.specification import SubProblems, check_fits, subproblems
from secateur.pipeline.verify.results import Result

MARGIN = 1e-6
"""How far above 0 a bound must lie, in units of 1 + the largest sum of magnitudes that its row can have."""

TOLERANCE = 1e-4
"""By how much, relative to its largest output, the torch function may differ from onnxruntime."""

SAMPLES = 16
"""How many points of a box its bounds are held against, half of them corners."""


class Network:
    """One network in auto_LiRPA, ready for queries: converted and traced once."""

    def __init__(self, model: Model, device: str = "cpu") -> None:
        """
        Raises:
            InputError: auto_LiRPA is not installed.
            UnsupportedError: onnx2torch or auto_LiRPA does not know an operator; several inputs or outputs; a batch
                that does not stay apart.
            CheckFailed: the torch function differs from the model in onnxruntime.
        """
        started = time.perf_counter()
        self.name = model.name
        self.shape = onnxrt.input_shape(model)
        self.inputs = math.prod(self.shape)
        module = _with_parameters(_module(model))
        self._function = _OneOutput(module).double().to(device).eval()
        start = torch.zeros(self.shape, dtype=torch.float64, device=device)
        self.device = start.device
        with _refusals(model.name), library() as lirpa:
            self._compare(model)
            self.release = str(lirpa.__version__)
            # Its default for convolutions, "patches", takes every Add for one of images.
            options = {"conv_mode": "matrix"}
            self._bounded = lirpa.BoundedModule(self._function, start, options, device=device)
            self._output = tuple(self._bounded.final_shape)
        self.outputs = math.prod(self._output)
        self.build_seconds = time.perf_counter() - started

    @property
    def methods(self) -> tuple[str, ...]:
        """auto_LiRPA's names of what decides queries, cheap first. In release 0.3 optimised slopes come out in
        float32, and no better than those of CROWN."""
        return ("CROWN",) if self.release.startswith("0.3") else ("CROWN", "CROWN-Optimized")

    def bounds(
        self, lower: Tensor, upper: Tensor, rows: Tensor | None = None, *, method: str = "CROWN"
    ) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds (S,), float64, of rows (S, n_out) of the outputs over the box [lower, upper] (n_in,).

        Without rows, of the outputs themselves (n_out,). `method` is one of auto_LiRPA's, such as "IBP" and "CROWN".
        """
        low, high = (side.to(self.device, torch.float64).reshape(self.shape) for side in (lower, upper))
        rows = torch.eye(self.outputs) if rows is None else rows
        rows = rows.to(self.device, torch.float64).reshape(1, len(rows), *self._output[1:])
        with _refusals(self.name), library() as lirpa:
            ball = lirpa.PerturbationLpNorm(norm=np.inf, x_L=low, x_U=high)
            x = lirpa.BoundedTensor((low + high) / 2, ball)
            with torch.set_grad_enabled("Optimized" in method):
                found = self._bounded.compute_bounds(x=(x,), C=rows, method=method)
        below, above = (side.detach().double().flatten() for side in found)
        values = self._sampled(low, high) @ rows.flatten(2)[0].T
        slack = MARGIN * (1 + values.abs())
        if not ((values >= below - slack) & (values <= above + slack)).all():
            raise CheckFailed(
                f"a bound by auto_LiRPA {self.release} ({method}) is wrong: a sampled input violates it",
                where=self.name,
                hint="nothing it says of this network can be trusted",
            )
        return below.cpu(), above.cpu()

    def verify(self, query: Query, *, timeout: float) -> Result:
        """Bound the clauses of every region. The clock is looked at between regions and methods alone.

        Raises:
            InputError: the query is about a network of another size.
            UnsupportedError: auto_LiRPA fails on it.
        """
        started = time.perf_counter()
        check_fits(query, self.inputs, self.outputs, self.name)
        problems = subproblems([query])
        best = torch.full((len(problems),), -math.inf, dtype=torch.float64)
        verdict = "unknown"
        for method in self.methods:
            for region in problems.region.unique().tolist():
                where = torch.nonzero((problems.region == region) & ~(best > 0)).flatten()
                late = time.perf_counter() - started > timeout
                if len(where) and not late:
                    best[where] = torch.fmax(best[where], self._clauses(problems[where], method))
                elif len(where):
                    verdict = "timeout"
        seconds = time.perf_counter() - started
        refuted = bool((best > 0).all())
        bound = float(best.min()) if len(best) else math.inf
        return Result(
            "unsat" if refuted else verdict,
            None,
            self.build_seconds + seconds,
            {"build": self.build_seconds, "bounds": seconds},
            0,
            bound if math.isfinite(bound) else None,
            None,
            ""
            if refuted
            else f"the bounds of auto_LiRPA {self.release} do not refute it, and it does nothing else",
        )

    def _clauses(self, problems: SubProblems, method: str) -> Tensor:
        """Bounds (P,) of clauses of one region, less the margin: of each the best of its rows."""
        box = problems.boxes[problems.region[:1]]
        lower, upper = box.lower[0], box.upper[0]
        rows = problems.outputs.flatten(0, 1)
        eye = torch.eye(self.outputs, dtype=torch.float64)
        low, high = self.bounds(lower, upper, torch.cat([rows, eye]), method=method)
        outputs = torch.maximum(low[len(rows) :].abs(), high[len(rows) :].abs())
        bound = low[: len(rows)].view(problems.constant.shape) + problems.constant
        size = 1 + problems.constant.abs() + problems.outputs.abs() @ outputs
        if problems.inputs is not None:  # the inputs' own terms are bounded apart from the outputs'
            positive, negative = problems.inputs.clamp(min=0), problems.inputs.clamp(max=0)
            bound = bound + positive @ lower + negative @ upper
            size = size + problems.inputs.abs() @ torch.maximum(lower.abs(), upper.abs())
        return (bound - MARGIN * size).amax(1)

    def _sampled(self, low: Tensor, high: Tensor) -> Tensor:
        """The outputs (SAMPLES, n_out) at points of a box, the same ones every time."""
        generator = torch.Generator().manual_seed(0)
        shares = torch.rand(SAMPLES, *self.shape, dtype=torch.float64, generator=generator)
        shares[: SAMPLES // 2] = shares[: SAMPLES // 2].round()
        return self._outputs(low + shares.to(self.device) * (high - low))

    def _outputs(self, x: Tensor) -> Tensor:
        """The torch function's outputs (n, n_out) at inputs (n, *input shape), one by one: its batch may be fixed."""
        with torch.no_grad():
            return torch.stack([self._function(one).flatten() for one in x])

    def _compare(self, model: Model) -> None:
        """The torch function agrees with onnxruntime on random inputs."""
        x = onnxrt.sample_inputs(self.inputs, seed=0, samples=8)
        inputs = torch.from_numpy(x).double().to(self.device).view(-1, *self.shape)
        worst = onnxrt.difference(onnxrt.run(model, x), self._outputs(inputs).cpu().numpy())
        if not worst <= TOLERANCE:
            raise CheckFailed(
                f"the torch function differs from the model in onnxruntime by {worst:.3g} (tolerance {TOLERANCE:g})",
                where=self.name,
            )


def _module(model: Model) -> nn.Module:
    """The torch module of the model as it is, or else as `onnxtorch.prepared` writes it: auto_LiRPA knows Constant
    nodes better than what becomes of them there."""
    _check_first_axis(model)
    try:
        return onnxtorch.module(model)
    except UnsupportedError:
        other = onnxtorch.prepared(model)
        _check_first_axis(other)
        return onnxtorch.module(other)


def _check_first_axis(model: Model) -> None:
    """Raises UnsupportedError where a value that depends on the input is not of length 1 along its first axis."""
    shapes = onnxrt.value_shapes(model)
    varying = {model.inputs[0].name}
    for node in model.graph.node:
        if node.op_type == "Shape" or varying.isdisjoint(onnxgraph.reads(node)):
            continue
        varying.update(filter(None, node.output))
        wrong = [name for name in node.output if name and shapes[name][:1] != (1,)]
        if wrong:
            raise UnsupportedError(
                f"auto_LiRPA takes the first axis for the batch, and '{wrong[0]}', made by {onnxgraph.label(node)}, "
                f"has the shape {list(shapes[wrong[0]])}",
                where=model.name,
            )


def _with_parameters(module: nn.Module) -> nn.Module:
    """Constants that onnx2torch keeps as buffers become parameters: there auto_LiRPA looks up its number type."""
    for name, buffer in list(module.named_buffers()):
        place, _, last = name.rpartition(".")
        if place.split(".")[-1] == "initializers" and buffer.is_floating_point():
            holder = module.get_submodule(place)
            delattr(holder, last)
            holder.register_parameter(last, nn.Parameter(buffer))
    return module.requires_grad_(False)


class _OneOutput(nn.Module):
    """A module that must have a single tensor as its output."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        y = self.module(x)
        if not isinstance(y, Tensor):
            raise UnsupportedError("expected a network with 1 output, found several")
        return y


class _refusals:
    """Turns whatever the library raises into one line: it has no errors of its own for what it cannot do."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, SecateurError):
            reason = " ".join(str(error).split())[:200]
            raise UnsupportedError(
                f"auto_LiRPA cannot bound it: {type(error).__name__}: {reason}", where=self._name
            ) from error

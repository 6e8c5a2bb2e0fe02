"""scikit-learn's MLPClassifier and MLPRegressor, alone or behind scalers in a Pipeline, through skl2onnx.

skl2onnx ends classifiers in two outputs, labels and probabilities, and regressors in a Reshape to one column; what
comes out here is one float output [N, classes or targets].
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper

from secateur.formats.errors import InputError, UnsupportedError
from secateur.pipeline import onnxgraph
from secateur.pipeline.convert.passes import dead
from secateur.pipeline.convert.sources.source import Array, Content, Format, Options, Source, line

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

_OPSET = 18
_INSTALL = "pip install 'secateur[sklearn-onnx]'"
_SAFE = frozenset(
    f"sklearn.neural_network._stochastic_optimizers.{name}" for name in ("AdamOptimizer", "SGDOptimizer")
)
"""What a trained MLP holds and skops doesn't know to be harmless."""


def is_model(value: Any) -> bool:
    """Whether `value` is a scikit-learn estimator (or a Pipeline of them)."""
    from sklearn.base import BaseEstimator

    return isinstance(value, BaseEstimator)


def from_model(model: BaseEstimator, content: Content) -> Source:
    """The fitted model with inputs [N, features].

    Raises:
        InputError: not fitted; skl2onnx is missing.
        UnsupportedError: not an MLP at its end, or skl2onnx cannot convert a step.
    """
    try:
        from skl2onnx import to_onnx
    except ImportError:
        raise InputError(
            "scikit-learn models need skl2onnx, which is not installed", where=content.name, hint=_INSTALL
        ) from None
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import Pipeline

    last = model.steps[-1][1] if isinstance(model, Pipeline) else model
    if not isinstance(last, (MLPClassifier, MLPRegressor)):
        name = type(last).__name__
        raise UnsupportedError(f"expected an MLPClassifier or MLPRegressor, found {name}", where=content.name)
    features = getattr(model, "n_features_in_", None)
    if features is None:
        raise InputError("the model is not fitted", where=content.name, hint="call its fit first")
    classifier = isinstance(last, MLPClassifier)
    example = np.zeros((1, features), np.float32)
    settings = {"options": {"zipmap": False}} if classifier else {}
    try:
        proto = to_onnx(model, example, target_opset={"": _OPSET, "ai.onnx.ml": 3}, **settings)
    except Exception as error:
        raise UnsupportedError(f"skl2onnx cannot convert it: {line(error)}", where=content.name) from None
    predict = model.predict_proba if classifier else model.predict

    def function(rows: Array) -> Array:
        return np.asarray(predict(rows.reshape(len(rows), -1))).reshape(len(rows), -1)

    outputs = function(example).shape[1]
    if classifier:
        classes = ", ".join(str(name) for name in last.classes_)
        note = f"the outputs are the probabilities of the classes {classes}"
    else:
        note = f"the outputs are the {outputs} predicted values"
    return Source(_one_output(proto, outputs), content.sha256, "scikit-learn", function, (note,))


def read(content: Content, options: Options) -> Source:
    """A skops archive, which is no pickle: known types alone are loaded.

    Raises:
        InputError: skops is missing; a damaged archive, or one with types that may run code.
        UnsupportedError: see `from_model`.
    """
    try:
        from skops import io as skops
    except ImportError:
        raise InputError(
            "skops archives need skops, which is not installed", where=content.name, hint=_INSTALL
        ) from None
    try:
        unknown = set(skops.get_untrusted_types(data=content.data))
        trusted = unknown if options.trust_pickle else unknown & _SAFE
        model = skops.loads(content.data, trusted=sorted(trusted))
    except Exception as error:
        raise InputError(f"cannot be loaded: {line(error)}", where=content.name) from None
    return from_model(model, content)


FORMAT = Format("scikit-learn MLP by skops", lambda content: "schema.json" in content.entries, read)


def _one_output(proto: onnx.ModelProto, outputs: int) -> onnx.ModelProto:
    """Without labels, and without what only they need; [N, outputs] also where skl2onnx makes one column."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    graph = copy.graph
    kept = graph.output[-1]
    makers = {name: node for node in graph.node for name in node.output}
    last = makers[kept.name]
    if last.op_type == "Reshape":
        makers[last.input[0]].output[0] = kept.name
        graph.node.remove(last)
    onnxgraph.replace_nodes(graph, [part for node in graph.node for part in _scaled(copy, node)])
    del graph.output[:-1]
    kept.CopyFrom(onnx.helper.make_tensor_value_info(kept.name, onnx.TensorProto.FLOAT, ["batch", outputs]))
    graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    needed = dead.rewrite(copy)
    used = {node.domain or "ai.onnx" for node in needed.graph.node}
    imports = [entry for entry in needed.opset_import if (entry.domain or "ai.onnx") in used]
    del needed.opset_import[:]
    needed.opset_import.extend(imports)
    return needed


def _scaled(model: onnx.ModelProto, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """A Scaler of the machine-learning operators, (x − offset) · scale, as what every reader knows; others as they
    are."""
    if node.op_type != "Scaler":
        return [node]
    names = []
    for part in ("offset", "scale"):
        names.append(onnxgraph.unused_name(model.graph, f"{node.output[0]}_{part}"))
        values = np.asarray(onnxgraph.attribute(node, part), np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, names[-1]))
    moved = onnxgraph.unused_name(model.graph, f"{node.output[0]}_moved")
    return [
        onnx.helper.make_node("Sub", [node.input[0], names[0]], [moved], f"{node.name}_sub"),
        onnx.helper.make_node("Mul", [moved, names[1]], [node.output[0]], f"{node.name}_mul"),
    ]

"""Bad input, through the command line: one clear line that names what is wrong, the right exit code, nothing left."""

from __future__ import annotations

import gzip
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.numpy
from click.testing import Result
from onnx import TensorProto, helper, numpy_helper

from factories import box_property, cnn, mlp, model

BOX = ([-1.0] * 4, [1.0] * 4)


@dataclass(frozen=True)
class Case:
    """`command` is split at blanks; its words name files of the `files` fixture. `says` must stand in the line."""

    name: str
    command: str
    says: tuple[str, ...]
    exit_code: int = 2
    stdin: bytes | None = None

    def __str__(self) -> str:
        return self.name


CASES = [
    # models
    Case("missing model", "inspect nowhere.onnx", ("nowhere.onnx", "no such file")),
    Case("model is a folder", "inspect folder", ("folder", "cannot be read")),
    Case("empty model", "inspect empty.onnx", ("empty.onnx", "empty")),
    Case("truncated model", "inspect truncated.onnx", ("truncated.onnx", "not an ONNX model")),
    Case("text for a model", "inspect text.onnx", ("text.onnx", "not an ONNX model")),
    Case("damaged gzip", "inspect damaged.onnx.gz", ("damaged.onnx.gz", "damaged gzip")),
    Case("nothing on standard input", "inspect -", ("standard input", "empty"), stdin=b""),
    Case("NaN weights", "verify nan.onnx good.vnnlib", ("nan.onnx", "fc0.weight", "NaN")),
    Case("infinite weights", "verify inf.onnx good.vnnlib", ("inf.onnx", "fc0.weight", "infinite")),
    Case("integer input", "verify int64.onnx good.vnnlib", ("int64.onnx", "int64"), 3),
    Case("undefined operator", "inspect undefined.onnx", ("undefined.onnx", "Frobnicate")),
    Case("foreign operator", "verify foreign.onnx good.vnnlib", ("foreign.onnx", "Frobnicate", "odd"), 3),
    Case("unsupported operator", "verify det.onnx one.vnnlib", ("det.onnx", "Det", "odd"), 3),
    Case("data in another file", "inspect external.onnx", ("external.onnx", "fc0.weight", "weights.bin")),
    Case("pickled module", "convert module.pt", ("module.pt", "--trust-pickle")),
    Case("malformed .nnet", "convert bad.nnet", ("bad.nnet, line 3", "expected 3 values", "found 2")),
    Case("weights alone", "convert one.safetensors", ("one.safetensors", "--architecture")),
    Case("no such architecture", "convert one.safetensors --architecture big", ("'big'", "digits_mlp")),
    Case(
        "architecture that cannot be imported",
        "convert - --architecture no.py:net",
        ("no.py", "cannot import"),
    ),
    Case(
        "input shape of words", "convert module.pt --input-shape wide", ("--input-shape", "1,28,28", "wide")
    ),
    # properties
    Case("missing property", "verify good.onnx nowhere.vnnlib", ("nowhere.vnnlib", "no such file")),
    Case("empty property", "verify good.onnx empty.vnnlib", ("empty.vnnlib", "empty")),
    Case("binary property", "verify good.onnx binary.vnnlib", ("binary.vnnlib", "not text")),
    Case("property for other inputs", "verify good.onnx five.vnnlib", ("five.vnnlib", "5 inputs", "4")),
    Case(
        "property for other outputs", "bounds good.onnx outputs.vnnlib", ("outputs.vnnlib", "7 outputs", "3")
    ),
    Case("undeclared variable", "verify good.onnx undeclared.vnnlib", ("undeclared.vnnlib:", "Y_9")),
    Case("unbalanced parenthesis", "verify good.onnx unbalanced.vnnlib", ("unbalanced.vnnlib",)),
    Case("unbounded input", "verify good.onnx unbounded.vnnlib", ("unbounded.vnnlib", "X_3")),
    Case("nonlinear property", "verify good.onnx product.vnnlib", ("product.vnnlib:",), 3),
    Case("property for an attack", "attack good.onnx five.vnnlib", ("five.vnnlib", "5 inputs", "4")),
    Case("both from standard input", "verify - -", ("standard input",), stdin=b"x"),
    # instances and records
    Case("missing instances", "run nowhere.csv --results out/r.jsonl", ("nowhere.csv", "no such file")),
    Case("empty instances", "run empty.csv --results out/r.jsonl", ("empty.csv", "empty")),
    Case("instances row too short", "run short.csv --results out/r.jsonl", ("short.csv:2", "3 fields")),
    Case("instances timeout", "run timeout.csv --results out/r.jsonl", ("timeout.csv:1", "soon")),
    Case(
        "results in no folder", "run good.csv --results none/r.jsonl", ("none/r.jsonl", "cannot be written")
    ),
    Case("results a folder", "run good.csv --results folder", ("folder", "cannot be written")),
    Case("results not records", "run good.csv --results notes.jsonl", ("notes.jsonl:1",)),
    Case("records of the future", "report future.jsonl -o out/r.html", ("future.jsonl:1", "version"), 3),
    Case("report of no records", "report nowhere.jsonl -o out/r.html", ("nowhere.jsonl", "no such file")),
    # outputs
    Case("output in no folder", "prune magnitude good.onnx -s 0.5 -o none/o.onnx", ("none/o.onnx",)),
    Case("output a folder", "prune magnitude good.onnx -s 0.5 -o folder", ("folder", "cannot be written")),
    Case("output read-only", "prune magnitude good.onnx -s 0.5 -o /proc/o.onnx", ("/proc/o.onnx",)),
    Case(
        "witness in no folder",
        "verify good.onnx good.vnnlib --witness none/w",
        ("none/w", "cannot be written"),
    ),
    # masks
    Case("mask of another model", "apply cnn.onnx good.mask -o out/o.onnx", ("cnn.onnx", "made for")),
    Case(
        "mask of other shapes",
        "apply good.onnx shapes.mask -o out/o.onnx",
        ("fc0.weight", "(4, 8)", "(8, 4)"),
    ),
    Case("not a mask", "apply good.onnx text.onnx -o out/o.onnx", ("text.onnx", "mask")),
    Case("tensors, not a mask", "apply good.onnx tensors.mask -o out/o.onnx", ("tensors.mask", "mask")),
    Case("truncated mask", "apply good.onnx truncated.mask -o out/o.onnx", ("truncated.mask",)),
    # arguments
    Case("tickets of nothing", "tickets -o out/t", ("METHOD", "--recipe")),
    Case("tickets of no method", "tickets astrology -o out/t", ("astrology", "imp+nrs")),
    Case("tickets by two recipes", "tickets --quick --recipe r.toml -o out/t", ("--quick", "--recipe")),
    Case("tickets by no recipe", "tickets --recipe nowhere.toml -o out/t", ("nowhere.toml", "no such file")),
    Case("tickets by a model", "tickets --recipe good.onnx -o out/t", ("good.onnx", "TOML")),
    Case("tickets' seeds", "tickets imp --seeds 0,x -o out/t", ("--seeds", "0,x")),
    Case("tickets' sparsities", "tickets imp --sparsities 0.9,0.5 -o out/t", ("sparsities", "larger")),
    Case("tickets into a file", "tickets imp -o good.onnx", ("good.onnx", "cannot be made")),
    Case("sparsity above one", "prune magnitude good.onnx -s 1.5 -o out/o.onnx", ("1.5",)),
    Case("sparsity below zero", "prune magnitude good.onnx -s -0.1 -o out/o.onnx", ("-0.1",)),
    Case("sparsity no number", "prune magnitude good.onnx -s nan -o out/o.onnx", ("nan",)),
    Case("unknown criterion", "prune astrology good.onnx -s 0.5 -o out/o.onnx", ("astrology",)),
    Case("no sparsity", "prune magnitude good.onnx -o out/o.onnx", ("no sparsity", "-s S")),
    Case("no criterion", "prune -s 0.5", ("CRITERION", "--list")),
    Case("too many arguments", "prune magnitude good.onnx more.onnx -s 0.5", ("more.onnx",)),
    Case("unknown granularity", "prune magnitude good.onnx -s 0.5 --granularity atom", ("atom", "N:M")),
    Case(
        "sparsity of a pattern",
        "prune magnitude good.onnx -s 0.5 --granularity 2:4 -o out/o.onnx",
        ("2:4", "leave out a sparsity"),
    ),
    Case(
        "scope of a pattern",
        "prune magnitude good.onnx --granularity 2:4 --scope global -o out/o.onnx",
        ("2:4", "expected scope layer"),
    ),
    Case(
        "kernels of an MLP", "prune magnitude good.onnx -s 0.5 --granularity kernel -o out/o.onnx", ("Conv",)
    ),
    Case("ratio without a share", "prune magnitude good.onnx --ratio fc0", ("--ratio", "PATTERN=S", "fc0")),
    Case("ratio of words", "prune magnitude good.onnx --ratio fc0=half", ("--ratio", "fc0=half")),
    Case("ratio above one", "prune magnitude good.onnx --ratio gemm0=2 -o out/o.onnx", ("ratio gemm0 2",)),
    Case("ratio of no layer", "prune magnitude good.onnx --ratio fd*=0.5 -o out/o.onnx", ("'fd*'", "gemm0")),
    Case("ratios and a ratio", "prune magnitude good.onnx --ratios erk --ratio a=0.5 -s 0.5", ("--ratio",)),
    Case("ratios and a scope", "prune magnitude good.onnx --ratios erk --scope layer -s 0.5", ("--scope",)),
    Case(
        "ratios from no file",
        "prune magnitude good.onnx -s 0.5 --ratios nowhere.jsonl -o out/o.onnx",
        ("nowhere.jsonl", "no such file"),
    ),
    Case(
        "ratios from verdicts",
        "prune magnitude good.onnx -s 0.5 --ratios future.jsonl -o out/o.onnx",
        ("future.jsonl:1", "not a point"),
    ),
    Case(
        "pattern of no layer",
        "prune magnitude good.onnx -s 0.5 --include conv* -o out/o.onnx",
        ("'conv*'", "gemm0"),
    ),
    Case("unknown schedule", "prune magnitude good.onnx -s 0.5 --schedule slow", ("slow", "cubic")),
    Case("no steps", "prune magnitude good.onnx -s 0.5 --steps 0", ("--steps", "0")),
    Case(
        "unknown reduction",
        "prune magnitude good.onnx -s 0.5 --granularity block:2x2 --reduction best -o out/o.onnx",
        ("best", "l2"),
    ),
    Case(
        "unknown normaliser",
        "prune magnitude good.onnx -s 0.5 --normaliser best -o out/o.onnx",
        ("best", "lamp"),
    ),
    Case(
        "refill of weights", "prune magnitude good.onnx -s 0.5 --refill -o out/o.onnx", ("refill", "channel")
    ),
    Case("option of none", "prune magnitude good.onnx -s 0.5 --option a=1 -o out/o.onnx", ("'a'", "none")),
    Case("option without value", "prune magnitude good.onnx -s 0.5 --option a", ("--option", "KEY=VALUE")),
    Case("criterion without data", "prune snip good.onnx -s 0.5 -o out/o.onnx", ("snip", "--data")),
    Case(
        "criterion without ε", "prune nrs cnn.onnx --granularity channel -s 0.5 --data digits", ("--epsilon",)
    ),
    Case(
        "channels by weight",
        "prune bn-scale cnn.onnx -s 0.5 -o out/o.onnx",
        ("bn-scale", "channels", "found weight"),
    ),
    Case("missing recipe", "prune --recipe nowhere.toml good.onnx", ("nowhere.toml", "no such file")),
    Case("recipe not TOML", "prune --recipe text.onnx good.onnx", ("text.onnx:1", "TOML")),
    Case("recipe with a typo", "prune --recipe typo.toml good.onnx", ("typo.toml:3", "sparsty")),
    Case("recipe and options", "prune --recipe typo.toml good.onnx -s 0.5", ("--sparsity", "recipe")),
    Case("recipe and a criterion", "prune --recipe typo.toml magnitude good.onnx", ("good.onnx",)),
    Case(
        "mask of a shrinking recipe",
        "prune --recipe shrink.toml good.onnx --mask-out out/m -o out/o.onnx",
        ("mask",),
    ),
    Case("masks of other models", "mask union good.mask cnn.mask -o out/m", ("different models", "--force")),
    Case("initial weights of a mask", "mask stats good.mask --init good.onnx", ("--init", "good.mask")),
    Case("extract from other layers", "extract-mask good.onnx cnn.onnx -o out/m", ("cnn.onnx", "layers")),
    Case("recipe of an unpruned model", "inspect good.onnx --recipe", ("good.onnx", "no history")),
    Case("sensitivity to nothing", "sensitivity good.onnx", ("--results",)),
    Case(
        "sensitivity at two",
        "sensitivity cnn.onnx --results out/s --sparsities 0.5,2",
        ("--sparsities", "0.5,2"),
    ),
    Case(
        "sensitivity of patterns",
        "sensitivity digits.onnx --granularity 2:4 --results out/s",
        ("2:4", "sweep"),
    ),
    Case(
        "sensitivity in other records", "sensitivity digits.onnx --results future.jsonl", ("future.jsonl:1",)
    ),
    Case("unknown architecture", "train skyscraper -o out/o.onnx", ("skyscraper",)),
    Case("unknown device", "verify good.onnx good.vnnlib --device abacus", ("abacus", "cpu")),
    Case("absent device", "verify good.onnx good.vnnlib --device cuda:99", ("cuda:99",)),
    Case("unknown method", "bounds good.onnx good.vnnlib --method guess", ("guess", "crown")),
    Case("negative timeout", "verify good.onnx good.vnnlib --timeout -1", ("--timeout", "-1")),
    Case("unknown option", "verify good.onnx good.vnnlib --fast", ("--fast",)),
    Case("missing argument", "verify good.onnx", ("PROPERTY",)),
    # data
    Case("unknown data set", "evaluate cnn.onnx --data imaginary", ("imaginary",)),
    Case("missing data file", "evaluate cnn.onnx --data nowhere.npz", ("nowhere.npz",)),
    Case("truncated npz", "evaluate cnn.onnx --data truncated.npz", ("truncated.npz",)),
    Case("npz without images", "evaluate cnn.onnx --data other.npz", ("other.npz",)),
    Case("images of another size", "evaluate good.onnx --data digits", ("good.onnx",)),
    Case(
        "negative epsilon",
        "property robust digits.onnx --index 0 --epsilon -0.1 -o out/p",
        ("epsilon", "-0.1"),
    ),
    Case(
        "index out of range",
        "property robust digits.onnx --index 99999 --epsilon 0.1 -o out/p",
        ("99999",),
    ),
    # witnesses
    Case("witness too short", "check witness good.onnx good.vnnlib short.witness", ("short.witness", "4")),
    Case("witness of words", "check witness good.onnx good.vnnlib text.onnx", ("text.onnx", "not a witness")),
    Case("witness not a number", "check witness good.onnx good.vnnlib nan.witness", ("nan.witness", "X_1")),
    Case(
        "witness that holds not", "check witness good.onnx good.vnnlib wrong.witness", ("wrong.witness",), 1
    ),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with good and bad files of every kind, and an empty folder `out`."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "folder").mkdir()
    (folder / "out").mkdir()
    good = mlp([4, 8, 3])
    digits = cnn(classes=10)
    contents = {
        "good.onnx": good.SerializeToString(),
        "cnn.onnx": digits.SerializeToString(),
        "digits.onnx": digits.SerializeToString(),
        "empty.onnx": b"",
        "truncated.onnx": good.SerializeToString()[:-100],
        "text.onnx": b"this is not a model\n",
        "damaged.onnx.gz": gzip.compress(good.SerializeToString())[:-20],
        "nan.onnx": _with_weight(good, np.nan),
        "inf.onnx": _with_weight(good, np.inf),
        "int64.onnx": _integer_input(),
        "undefined.onnx": _operator("Frobnicate", ""),
        "foreign.onnx": _operator("Frobnicate", "com.example"),
        "det.onnx": _determinant(),
        "external.onnx": _external(good),
        "bad.nnet": b"// two layers\n2,1,1,1,\n1,1,\n",
        "one.safetensors": safetensors.numpy.save({"fc1.weight": np.zeros((2, 3), np.float32)}),
        "module.pt": b"\x80\x02}q\x00.",
        "empty.vnnlib": b"",
        "binary.vnnlib": b"\xff\xfe\x00(",
        "good.vnnlib": _property(BOX, 3, "(<= Y_0 -1000.0)"),
        "one.vnnlib": _property(BOX, 1, "(<= Y_0 -1000.0)"),
        "five.vnnlib": _property(([0.0] * 5, [1.0] * 5), 3, "(<= Y_0 Y_1)"),
        "outputs.vnnlib": _property(BOX, 7, "(<= Y_0 Y_1)"),
        "undeclared.vnnlib": _property(BOX, 3, "(<= Y_0 Y_9)"),
        "unbalanced.vnnlib": _property(BOX, 3, "(<= Y_0 Y_1"),
        "unbounded.vnnlib": _property(BOX, 3, "(<= Y_0 Y_1)").replace(b"(assert (<= X_3 1.0))\n", b""),
        "product.vnnlib": _property(BOX, 3, "(<= (* Y_0 Y_1) 1.0)"),
        "good.csv": b"good.onnx,good.vnnlib,60\n",
        "empty.csv": b"",
        "short.csv": b"good.onnx,good.vnnlib,60\ngood.onnx,60\n",
        "timeout.csv": b"good.onnx,good.vnnlib,soon\n",
        "notes.jsonl": b"a note\nanother\n",
        "future.jsonl": b'{"schema_version": 99}\n{"schema_version": 99}\n',
        "shapes.mask": _mask(good, transposed=True),
        "good.mask": _mask(good),
        "truncated.mask": _mask(good)[:-20],
        "cnn.mask": _mask(digits),
        "typo.toml": b'[[step]]\nprune = "magnitude"\nsparsty = 0.5\n',
        "shrink.toml": b"[[step]]\nshrink = true\n",
        "tensors.mask": safetensors.numpy.save({"fc0.weight": np.zeros((8, 4), np.float32)}),
        "truncated.npz": _npz(x=np.zeros((3, 8, 8), np.uint8), y=np.zeros(3, np.int64))[:-40],
        "other.npz": _npz(a=np.zeros(3)),
        "short.witness": b"((X_0 0.0)\n(X_1 0.0))\n",
        "nan.witness": b"((X_0 0.0)\n(X_1 nan)\n(X_2 0.0)\n(X_3 0.0))\n",
        "wrong.witness": b"((X_0 0.0)\n(X_1 0.0)\n(X_2 0.0)\n(X_3 0.0))\n",
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return folder


def _property(box: tuple[list[float], list[float]], outputs: int, condition: str) -> bytes:
    return box_property(*box, outputs, condition).encode()


def _with_weight(proto: onnx.ModelProto, value: float) -> bytes:
    bad = onnx.ModelProto()
    bad.CopyFrom(proto)
    array = numpy_helper.to_array(bad.graph.initializer[0]).copy()
    array[0, 0] = value
    bad.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, bad.graph.initializer[0].name))
    return bad.SerializeToString()


def _integer_input() -> bytes:
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Gemm", ["f", "w"], ["y"], "gemm"),
    ]
    weight = {"w": np.ones((4, 3), np.float32)}
    return model(nodes, weight, ["N", 4], ["N", 3], input_type=TensorProto.INT64).SerializeToString()


def _operator(kind: str, domain: str) -> bytes:
    proto = mlp([4, 8, 3])
    proto.graph.node[1].CopyFrom(helper.make_node(kind, ["fc0"], ["relu0"], "odd", domain=domain))
    if domain:
        proto.opset_import.append(helper.make_opsetid(domain, 1))
    return proto.SerializeToString()


def _determinant() -> bytes:
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["square"], "reshape"),
        helper.make_node("Det", ["square"], ["y"], "odd"),
    ]
    shape = {"shape": np.array([1, 2, 2], np.int64)}
    return model(nodes, shape, [1, 4], [1]).SerializeToString()


def _external(proto: onnx.ModelProto) -> bytes:
    moved = onnx.ModelProto()
    moved.CopyFrom(proto)
    tensor = moved.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    return moved.SerializeToString()


def _mask(proto: onnx.ModelProto, *, transposed: bool = False) -> bytes:
    from secateur.formats import mask, onnx_model

    weights = {name: array for name, array in onnx_model.initializers(proto).items() if array.ndim == 2}
    tensors = {name: np.ones((a.T if transposed else a).shape, bool) for name, a in weights.items()}
    return mask.to_bytes(mask.Mask(tensors, onnx_model.from_proto(proto).sha256, "magnitude", "weight"))


def _npz(**arrays: np.ndarray) -> bytes:
    import io

    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_input(
    case: Case, files: Path, invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    before = sorted(path.relative_to(files) for path in files.rglob("*"))
    result = invoke(*case.command.split(), stdin=case.stdin)
    assert (result.exit_code, result.stdout) == (case.exit_code, ""), result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("secateur: error: ")
    assert "unexpected" not in lines[0]
    for words in case.says:
        assert words in lines[0]
    assert sorted(path.relative_to(files) for path in files.rglob("*")) == before


@pytest.mark.parametrize("name", ["truncated model", "undeclared variable", "unsupported operator"])
def test_bad_input_of_the_console_script(name: str, files: Path, secateur: str) -> None:
    case = next(case for case in CASES if case.name == name)
    finished = subprocess.run(
        [secateur, *case.command.split()], cwd=files, capture_output=True, text=True, check=False
    )
    assert (finished.returncode, finished.stdout) == (case.exit_code, "")
    assert len(finished.stderr.splitlines()) == 1, finished.stderr
    assert all(words in finished.stderr for words in case.says)


def test_missing_files_of_an_instance_become_an_error_record(
    files: Path, tmp_path: Path, invoke: Callable[..., Result]
) -> None:
    from secateur.formats import verdict

    instances = tmp_path / "instances.csv"
    instances.write_text(f"nowhere.onnx,nowhere.vnnlib,5\n{files}/good.onnx,{files}/good.vnnlib,20\n")
    result = invoke("run", instances, "--results", tmp_path / "r.jsonl")
    assert result.exit_code == 0, result.output
    first, second = verdict.read([str(tmp_path / "r.jsonl")])
    assert (first.verdict, second.verdict) == ("error", "unsat")
    assert "no such file" in first.message
    assert "nowhere.onnx" in result.stderr

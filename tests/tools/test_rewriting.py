"""convert, inspect, prune, apply, mask and shrink through their command lines."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from onnx import helper

from factories import box_property, cnn, mlp
from factories import model as network
from secateur.formats import mask as masks
from secateur.formats import onnx_model
from secateur.formats.onnx_model import initializers
from secateur.pipeline.convert import targets
from secateur.pipeline.prune import CRITERIA


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    path = tmp_path / "dense.onnx"
    onnx_model.write(cnn(channels=6), str(path))
    return path


def test_prune_writes_the_model_and_its_mask(invoke, dense, tmp_path):
    out, mask = tmp_path / "sparse.onnx", tmp_path / "m.safetensors"
    result = invoke("prune", "magnitude", dense, "-s", 0.8, "-o", out, "--mask-out", mask)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    assert "pruned" in result.stderr
    found = masks.read(str(mask))
    assert found.model_sha256 == onnx_model.read(str(dense)).sha256
    assert dict(found.extra) == {"sparsity": "0.8", "scope": "global", "seed": "0"}
    total = sum(tensor.size for tensor in found.tensors.values())
    assert found.sparsity == pytest.approx(round(0.8 * total) / total)

    applied = invoke("apply", dense, mask)
    assert applied.exit_code == 0
    again = onnx_model.from_bytes(applied.stdout_bytes, "applied")
    pruned = onnx_model.read(str(out))
    assert all(
        (array == initializers(pruned.proto)[name]).all() for name, array in initializers(again.proto).items()
    )


def test_pipes_and_files_give_the_same_bytes(secateur, dense, tmp_path):
    prune = [secateur, "prune", "random", "-s", "0.5", "--granularity", "channel", "--seed", "3"]
    first = subprocess.run([*prune, "-"], input=dense.read_bytes(), capture_output=True, check=True)
    second = subprocess.run([secateur, "shrink"], input=first.stdout, capture_output=True, check=True)
    subprocess.run([*prune, dense, "-o", tmp_path / "p.onnx"], capture_output=True, check=True)
    subprocess.run(
        [secateur, "shrink", tmp_path / "p.onnx", "-o", tmp_path / "s.onnx"], capture_output=True, check=True
    )
    assert (tmp_path / "p.onnx").read_bytes() == first.stdout
    assert (tmp_path / "s.onnx").read_bytes() == second.stdout
    assert len(second.stdout) < len(first.stdout)


def test_prune_list_names_the_criteria(invoke):
    result = invoke("prune", "--list")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split(":")[0] for line in lines if not line.startswith(" ")] == list(CRITERIA)
    assert sum("; needs " in line for line in lines) == len(CRITERIA)


def test_apply_refuses_another_model_unless_forced(invoke, dense, tmp_path):
    mask, other = tmp_path / "m.safetensors", tmp_path / "other.onnx"
    invoke("prune", "magnitude", dense, "-s", 0.5, "-o", tmp_path / "s.onnx", "--mask-out", mask)
    onnx_model.write(cnn(seed=1, channels=6), str(other))
    refused = invoke("apply", other, mask, "-o", tmp_path / "no.onnx")
    assert refused.exit_code == 2
    assert "was made for the model" in refused.stderr and "--force" in refused.stderr
    assert not (tmp_path / "no.onnx").exists()
    assert invoke("apply", other, mask, "--force", "-o", tmp_path / "yes.onnx").exit_code == 0


@pytest.mark.parametrize("command", ["shrink", "apply"])
def test_rewrites_are_compared_on_real_inputs(command, invoke, dense, tmp_path, monkeypatch):
    from secateur.pipeline import onnxrt

    seen = []
    compare = onnxrt.compare
    monkeypatch.setattr(onnxrt, "compare", lambda *a, **k: seen.append(k["real_inputs"]) or compare(*a, **k))
    other, mask = tmp_path / "other.onnx", tmp_path / "m.safetensors"
    onnx_model.write(mlp([4, 8, 3]), str(other))
    for model, code in ((dense, 0), (other, 2)):
        words: list[object] = [model]
        if command == "apply":
            invoke("prune", "random", model, "-s", 0.5, "-o", tmp_path / "p.onnx", "--mask-out", mask)
            words.append(mask)
        seen.clear()
        out = tmp_path / f"out-{code}.onnx"
        result = invoke(command, *words, "--data", "digits", "--samples", 20, "-o", out)
        assert result.exit_code == code, result.stderr
        assert seen[0].shape == (20, 1, 8, 8)
        assert out.exists() == (code == 0)
    assert "samples have 64 elements, the network 4 inputs" in result.stderr


def test_shrink_reports_layer_by_layer(invoke, dense, tmp_path):
    pruned = invoke("prune", "magnitude", "-s", 0.5, "--granularity", "channel", "--scope", "layer", dense)
    result = invoke("shrink", "-", "--report", "-o", tmp_path / "small.onnx", stdin=pruned.stdout_bytes)
    assert result.exit_code == 0, result.stderr
    assert "conv0: 6 -> 3 channels\n" in result.stderr
    assert "fc: 3 -> 3 channels (left alone: they are network outputs)" in result.stderr
    small = onnx_model.read(str(tmp_path / "small.onnx"))
    assert initializers(small.proto)["conv0.weight"].shape == (3, 1, 3, 3)


def test_mask_stats(invoke, dense, tmp_path):
    mask = tmp_path / "m.safetensors"
    invoke(
        "prune",
        "magnitude",
        dense,
        "-s",
        0.5,
        "--scope",
        "layer",
        "-o",
        tmp_path / "s.onnx",
        "--mask-out",
        mask,
    )
    facts = json.loads(invoke("mask", "stats", mask, "--json").stdout)
    assert facts["criterion"] == "magnitude"
    assert facts["tensors"]["conv0.weight"] == {"elements": 54, "sparsity": 0.5}
    shown = invoke("mask", "stats", mask)
    assert shown.stdout == ""
    assert " 50.00% of         54  conv0.weight" in shown.stderr


def test_inspect_shows_neurons_of_a_property(invoke, tmp_path):
    net, prop = tmp_path / "net.onnx", tmp_path / "p.vnnlib"
    onnx_model.write(mlp([2, 4, 1]), str(net))
    prop.write_text(box_property([0, 0], [1, 1], 1, "(<= Y_0 0)"))
    result = invoke("inspect", net, "--property", prop, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["stability"][0]["neurons"] == 4
    shown = invoke("inspect", net)
    assert shown.stdout == ""
    assert "operators: Gemm 2, Relu 1" in shown.stderr


def test_convert_cleans_and_folds(invoke, dense, tmp_path):
    result = invoke("convert", dense, "--fold-batchnorm", "--opset", 13, "-o", tmp_path / "clean.onnx")
    assert result.exit_code == 0, result.stderr
    clean = onnx_model.read(str(tmp_path / "clean.onnx"))
    assert [node.op_type for node in clean.graph.node] == ["Conv", "Relu", "Conv", "Relu", "Flatten", "Gemm"]
    assert clean.proto.opset_import[0].version == 13
    (step,) = onnx_model.provenance(clean.proto)
    assert step["arguments"] == {"dynamic_batch": True, "fold_batchnorm": True, "opset": 13, "source": "onnx"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["prune", "magic", "dense.onnx", "-s", "0.5"], 2, "unknown criterion 'magic'"),
        (["prune", "magnitude", "dense.onnx", "-s", "1.5"], 2, "1.5 is not in the range"),
        (["prune", "magnitude", "dense.onnx"], 2, "no sparsity: expected a share"),
        (["prune", "magnitude", "dense.onnx", "-s", "0.5", "--mask-out", "no/m"], 2, "folder does not exist"),
        (["apply", "dense.onnx", "dense.onnx"], 2, "not a mask"),
        (["shrink", "missing.onnx"], 2, "missing.onnx: no such file"),
        (["convert", "text.onnx"], 2, "text.onnx:"),
        (["convert", "pickle.pt"], 2, "--trust-pickle"),
        (["convert", "dense.onnx", "--input-shape", "a,b"], 2, "expected sizes such as"),
        (["convert", "dense.onnx", "--opset", "999"], 3, "opset 999"),
        (["mask", "stats", "text.onnx"], 2, "not a mask"),
        (["inspect", "dense.onnx", "--property", "missing.vnnlib"], 2, "missing.vnnlib"),
    ],
)
def test_bad_input_gives_one_line_and_leaves_nothing(
    invoke, dense, tmp_path, monkeypatch, arguments, code, message
):
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "pickle.pt").write_bytes(b"\x80\x02}q\x00.")
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    writes = arguments[0] in ("prune", "apply", "shrink", "convert")
    result = invoke(*arguments, *(["-o", "out.onnx"] if writes else []))
    assert result.exit_code == code, result.stderr
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_convert_runs_chosen_passes_or_what_a_verifier_needs(invoke, dense, tmp_path):
    listed = invoke("convert", "--list-passes")
    assert listed.exit_code == 0
    assert all(name in invoke("convert", "--help").stdout for name in targets.TARGETS)
    assert "opset=N" in listed.stdout and "onnx-ir" in listed.stdout and "--for marabou: " in listed.stdout
    chosen = invoke("convert", dense, "--passes", "batchnorm,batch=1", "-o", tmp_path / "chosen.onnx")
    assert "passes: batchnorm, batch;" in chosen.stderr.replace("dynamic batch", "batch")
    found = onnx_model.read(str(tmp_path / "chosen.onnx"))
    assert "BatchNormalization" not in [node.op_type for node in found.graph.node]
    assert found.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    assert onnx_model.provenance(found.proto)[-1]["arguments"]["passes"] == ["batchnorm", "batch=1"]
    needed = invoke("convert", dense, "--for", "marabou", "-o", tmp_path / "needed.onnx")
    assert needed.exit_code == 0, needed.stderr
    found = onnx_model.read(str(tmp_path / "needed.onnx"))
    assert {node.op_type for node in found.graph.node} == {"Conv", "Relu", "Flatten", "Gemm"}


def test_convert_says_what_a_verifier_will_not_read(invoke, tmp_path):
    nodes = [helper.make_node("Softmax", ["x"], ["s"]), helper.make_node("Floor", ["s"], ["y"])]
    onnx_model.write(network(nodes, {}, ["N", 3], ["N", 3]), str(tmp_path / "net.onnx"))
    result = invoke("convert", tmp_path / "net.onnx", "--for", "marabou", "-o", tmp_path / "out.onnx")
    assert result.exit_code == 0
    assert "left is what marabou does not read: Floor, Softmax" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name the model"),
        (["m.onnx", "--for", "marabou", "--passes", "dead"], "either --passes or --for"),
        (["m.onnx", "--passes", "dead", "--opset", "13"], "opset=N"),
        (["m.onnx", "--passes", "dad"], "there is no pass 'dad'"),
        (["m.onnx", "--for", "nobody"], "expected one of marabou"),
    ],
)
def test_convert_refuses_what_it_cannot_run(invoke, arguments, message):
    refused = invoke("convert", *arguments)
    assert refused.exit_code == 2
    assert message in refused.stderr

"""Marabou and NeuralSAT themselves: `make test-peers` installs them and runs this; without them it skips."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from factories import box_property, cnn, mlp
from secateur.formats import onnx_model, verdict, vnnlib
from secateur.formats.errors import SecateurError
from secateur.pipeline import campaign, crosscheck, dispatch
from secateur.pipeline.dispatch import doctor, homes
from secateur.pipeline.dispatch.foreign import Limits
from secateur.pipeline.questions import How
from secateur.pipeline.verify import verify

pytestmark = pytest.mark.peers
PEERS = ("marabou", "neuralsat")
LIMITS = Limits(memory=8 << 30, threads=1)


@pytest.fixture(params=PEERS)
def peer(request: pytest.FixtureRequest) -> str:
    """A peer's name; skips where it is not installed."""
    tool = dispatch.tool(request.param)
    assert tool is not None
    try:
        homes.find(tool)
    except SecateurError as error:
        pytest.skip(str(error))
    return str(request.param)


def test_it_answers_rightly(peer: str) -> None:
    health = doctor.examine(peer)
    assert health.healthy, health.message
    assert "unsat and sat" in health.message


@pytest.mark.parametrize("seed", range(4))
def test_it_agrees_with_our_engine_and_with_replay(peer: str, seed: int, tmp_path: Path) -> None:
    """Just above the largest output that there is, and just below: the second has a witness, which is replayed."""
    onnx = tmp_path / "net.onnx"
    onnx_model.write(mlp([3, 10, 10, 2], seed=seed) if seed % 2 else cnn(seed=seed, classes=2), str(onnx))
    model = onnx_model.read(str(onnx))
    inputs, radius = (3, 0.1) if seed % 2 else (64, 0.02)
    box = [0.5 - radius] * inputs, [0.5 + radius] * inputs, 2
    low, high = -1e3, 1e3
    while high - low > 1e-2:
        middle = (low + high) / 2
        text = box_property(*box, f"(>= Y_0 {middle!r})")
        decided = verify(model, vnnlib.parse(text, "p"), timeout=60).verdict
        assert decided in ("sat", "unsat")
        low, high = (middle, high) if decided == "sat" else (low, middle)
    for threshold, expected in ((low - 0.05, "sat"), (high + 0.05, "unsat")):
        prop = tmp_path / "p.vnnlib"
        prop.write_text(box_property(*box, f"(>= Y_0 {threshold!r})"))
        record = campaign.verify_files(str(onnx), str(prop), How(verifier=peer, limits=LIMITS), timeout=60)
        if dispatch.trusted(peer):
            assert record.verdict == expected, record.message
        else:  # Marabou misreads some convolutional networks: what it says then must not be what we say
            assert crosscheck.conclude([record]).verdict in (expected, "unknown")
        if record.verdict == "sat":
            assert record.labels["replay"] in ("strict", "tolerant")


def test_it_runs_an_instance_list_beside_ours(
    peer: str, tmp_path: Path, invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke("train", "digits_mlp", "--epochs", 3, "-o", "net.onnx").exit_code == 0
    made = invoke("property", "robust", "net.onnx", "--count", 3, "--epsilon", "0.03", "-o", "props")
    assert made.exit_code == 0, made.stderr
    line = ("run", "props/instances.csv", "--results", "r.jsonl", "--timeout", 30, "--threads", 1)
    done = invoke(*line, "--verifier", f"crown,{peer}", "--log-dir", "logs")
    assert done.exit_code == 0, done.stderr
    records = verdict.read(["r.jsonl"])
    decided = {
        name: {r.property_sha256: r.verdict for r in records if r.verifier == name}
        for name in ("crown", peer)
    }
    assert len(decided[peer]) == len(decided["crown"]) > 0
    assert decided[peer] == decided["crown"]
    assert all(Path("logs", r.log).read_text() for r in records if r.verifier == peer)


def test_a_false_unsat_is_overruled(shared_data: Path, tmp_path: Path) -> None:
    """Whatever Marabou says of a residual network that has a witness, ours is replayed and settles it."""
    tool = dispatch.tool("marabou")
    assert tool is not None
    if homes.look(tool) is None:
        pytest.skip("marabou is not installed")
    folder = shared_data / "benchmarks" / "sri_resnet_b"
    network = "resnet_3b2_bn_mixup_ssadv_4.0_bs128_lr-1_v2"
    files = [
        str(next(folder.glob(f"{kind}/{name}*")))
        for kind, name in (("onnx", network), ("vnnlib", "cifar10_spec_idx_9149_"))
    ]
    records = [
        campaign.verify_files(*files, How(verifier=name, limits=LIMITS), timeout=100)
        for name in ("crown", "marabou")
    ]
    assert records[0].verdict == "sat"
    conclusion = crosscheck.conclude(records)
    assert conclusion.verdict == "sat"
    assert conclusion.refuted == (("marabou",) if records[1].verdict == "unsat" else ())

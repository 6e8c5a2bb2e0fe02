"""Each kind of property, written in both dialects and decided by our engine: the verdict is known from elsewhere, by
arithmetic on linear networks, by enumeration, or because the network is built that way."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from factories import mlp, model
from secateur.formats import instances, onnx_model
from secateur.formats.dataset import Dataset
from secateur.formats.errors import InputError, UnsupportedError
from secateur.formats.onnx_model import Model
from secateur.pipeline import campaign, onnxrt, properties
from secateur.pipeline.properties import PropertySet, RightToo, SameClass, Within
from secateur.pipeline.questions import joined


def linear(weight: Sequence[Sequence[float]], bias: Sequence[float], name: str = "net.onnx") -> Model:
    """y = Wx + b behind a Flatten, on images [N, 1, 2, 2] or whatever has as many elements."""
    w, b = np.array(weight, np.float32), np.array(bias, np.float32)
    shape = ["N", 1, 2, 2] if w.shape[1] == 4 else ["N", w.shape[1]]
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "w", "b"], ["y"], "fc", transB=1),
    ]
    return onnx_model.from_proto(model(nodes, {"w": w, "b": b}, shape, ["N", len(w)]), name)


def verdicts(found: PropertySet, folder: Path) -> list[str]:
    """What the engine says of each property, in order; the same of the 1.0 and the 2.0 folder."""
    said = []
    for listing in properties.write(found.properties, str(folder), timeout=20, version="both"):
        assert len(instances.read(listing)) == len(found.properties)
        jobs = campaign.plan(listing, str(folder / "results.jsonl")).pending
        records = {
            (record.property, record.model): record.verdict
            for record in campaign.run(jobs, str(folder / "results.jsonl"))
        }
        said.append([records[job.instance.vnnlib, job.instance.onnx] for job in jobs])
        assert joined(dict(jobs[0].instance.networks) or {"": jobs[0].instance.onnx})
    assert said[0] == said[1]
    return said[0]


WEIGHT = np.array([[1.0, -0.5, 0.25, 0.11], [-1.0, 0.5, 0.5, -0.2]], np.float32)
FLAT = linear(WEIGHT.tolist(), [0.0, 0.0])
IMAGES = np.array([[0.75, 0.25, 0.5, 0.5], [0.25, 0.75, 0.5, 0.0], [0.5, 0.25, 0.0, 1.0]], np.float32)
DATA = Dataset("d.npz", IMAGES.reshape(3, 1, 2, 2), (IMAGES @ WEIGHT.T).argmax(axis=1), 2)


def worst_margin(index: int, lower: NDArray[np.float64], upper: NDArray[np.float64]) -> float:
    """The smallest lead of the image's class over the other between the flat ends: of a linear net, at a corner."""
    label = int(DATA.labels[index])
    lead = (WEIGHT[label] - WEIGHT[1 - label]).astype(np.float64)
    return float(np.where(lead > 0, lead * lower, lead * upper).sum())


def test_a_radius_a_pixel(tmp_path: Path) -> None:
    for number, epsilon in enumerate(([0.4, 0.0, 0.0, 1.0], [0.0, 0.3, 0.1, 0.0], [0.26, 0.2, 0.0, 0.0])):
        radii = np.array(epsilon, np.float32).reshape(1, 2, 2)
        found = properties.robust(FLAT, DATA, range(3), radii)
        x, r = IMAGES.astype(np.float64), np.array(epsilon)
        margins = [worst_margin(i, (x[i] - r).clip(0, 1), (x[i] + r).clip(0, 1)) for i in range(3)]
        assert min(abs(margin) for margin in margins) > 1e-3
        expected = ["unsat" if margin > 0 else "sat" for margin in margins]
        assert verdicts(found, tmp_path / str(number)) == expected
    assert [one.name for one in found.properties] == [f"robust_idx{i}_epsmap" for i in range(3)]
    spread = properties.robust(FLAT, DATA, [0], np.array([[0.5, 0], [0.25, 0.5]]))
    box = spread.properties[0].query.regions[0]
    assert box.upper.tolist() == [1.0, 0.25, 0.75, 1.0]


@pytest.mark.parametrize(
    ("epsilon", "message"),
    [
        (np.zeros((3, 3)), r"epsilons have shape \(3, 3\): expected that of an image, \(1, 2, 2\)"),
        (np.full((2, 2), -0.1), "an epsilon that is negative or not finite"),
        (np.full((2, 2), np.nan), "an epsilon that is negative or not finite"),
        (np.full((2, 2), "a"), "epsilons are <U1: expected numbers"),
    ],
)
def test_bad_radii(epsilon: NDArray[np.generic], message: str) -> None:
    with pytest.raises(InputError, match=message):
        properties.robust(FLAT, DATA, [0], epsilon)


def test_patches_everywhere(tmp_path: Path) -> None:
    found = properties.patch(FLAT, DATA, range(3), 1)
    expected = []
    for index, pixel in product(range(3), range(4)):
        lower, upper = IMAGES[index].astype(np.float64), IMAGES[index].astype(np.float64)
        lower[pixel], upper[pixel] = 0, 1
        expected.append("unsat" if worst_margin(index, lower, upper) > 0 else "sat")
    assert set(expected) == {"sat", "unsat"}
    assert verdicts(found, tmp_path) == expected
    assert found.properties[1].name == "patch_idx0_eps0.0_k1_at0_1"
    [whole] = properties.patch(FLAT, DATA, [0], 2, positions=[(0, 0)], mean=[0.5], std=[0.25]).properties
    assert whole.query.regions[0].lower.tolist() == [-2.0] * 4
    assert whole.query.regions[0].upper.tolist() == [2.0] * 4
    for size, corner in ((3, (0, 0)), (2, (0, 1)), (1, (-1, 0))):
        with pytest.raises(InputError, match="a patch of"):
            properties.patch(FLAT, DATA, [0], size, positions=[corner])


def test_brightness_is_decided_over_all_shifts(tmp_path: Path) -> None:
    """A linear net of clipped pixels is linear in the shift between the shifts where a pixel saturates."""
    seen: set[str] = set()
    for most in (0.1, 0.3, 0.6):
        found = properties.brightness(FLAT, DATA, range(3), most)
        expected = []
        for image, label in zip(IMAGES.astype(np.float64), DATA.labels.tolist(), strict=True):
            turns = [s for s in (*-image, *(1 - image), -most, most) if abs(s) <= most]
            lead = [float((WEIGHT[label] - WEIGHT[1 - label]) @ (image + s).clip(0, 1)) for s in turns]
            assert abs(min(lead)) > 1e-3
            expected.append("unsat" if min(lead) > 0 else "sat")
        assert verdicts(found, tmp_path / str(most)) == expected
        seen |= set(expected)
    assert seen == {"sat", "unsat"}


def test_the_shift_comes_before_normalisation() -> None:
    images = np.random.default_rng(0).random((4, 3, 2, 2), np.float32)
    net = onnx_model.from_proto(mlp([12, 8, 3], seed=1), "dir/net.onnx")
    data = Dataset("d", images, onnxrt.run(net, images).argmax(axis=1), 3)
    mean, std = (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)
    one = properties.brightness(net, data, [1], "0.2", mean=mean, std=std, only_correct=False).properties[0]
    assert one.subject.models[0].name == "net_shift.onnx" and one.subject.inputs == 13
    region = one.query.regions[0]
    assert region.upper[0] >= 0.2 and region.lower[0] <= -0.2 and region.upper[0] < 0.2 + 1e-7
    assert region.lower[1:].tolist() == region.upper[1:].tolist() == images[1].ravel().tolist()
    x = np.concatenate([[np.float32(0.15)], images[1].ravel()])[None]
    moved = (np.clip(images[1] + 0.15, 0, 1) - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    expected = onnxrt.run(net, moved.astype(np.float32)[None])
    np.testing.assert_allclose(onnxrt.run(one.subject.models[0], x), expected, rtol=1e-4, atol=1e-4)


def test_ranges(tmp_path: Path) -> None:
    net = linear([[2.0, -1.0], [1.0, 1.0]], [0.5, 0.0])
    box = properties.given(net, ["-1"], ["1"])  # outputs in [-2.5, 3.5] and [-2, 2]
    asked = [
        ({"lower": "-2.51", "upper": "3.51"}, "unsat"),
        ({"lower": "-2.4"}, "sat"),
        ({"upper": "3.4"}, "sat"),
        ({"upper": "2.01", "outputs": [1]}, "unsat"),
        ({"upper": "2.01"}, "sat"),
    ]
    for number, (bounds, expected) in enumerate(asked):
        found = properties.within_range(net, [box], **bounds)  # type: ignore[arg-type]
        assert verdicts(found, tmp_path / str(number)) == [expected], bounds
    data = Dataset("d", np.array([[0.5, 0.5]], np.float32), np.array([0]), 2)
    ball = properties.around(net, data, [0], "0.1", only_correct=False)
    for near, expected in (("0.31", "unsat"), ("0.29", "sat")):
        found = properties.within_range(net, ball, near=near)
        assert verdicts(found, tmp_path / near) == [expected]
    with pytest.raises(InputError, match="around no image"):
        properties.within_range(net, [box], near="0.1")
    with pytest.raises(InputError, match="there is no output 2: expected 0 to 1"):
        properties.within_range(net, [box], upper=1, outputs=[2])
    with pytest.raises(InputError, match="expected bounds of the outputs"):
        properties.within_range(net, [box])


def hidden(
    first: Sequence[Sequence[float]], second: Sequence[Sequence[float]], name: str = "net.onnx"
) -> Model:
    """y = V relu(Wx), without biases."""
    w, v = np.array(first, np.float32), np.array(second, np.float32)
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["h"], "fc0", transB=1),
        helper.make_node("Relu", ["h"], ["a"], "relu"),
        helper.make_node("Gemm", ["a", "v"], ["y"], "fc1", transB=1),
    ]
    return onnx_model.from_proto(model(nodes, {"w": w, "v": v}, ["N", w.shape[1]], ["N", len(v)]), name)


def test_monotone_nets(tmp_path: Path) -> None:
    """Positive weights on the way from input 0 make outputs grow; input 1 makes the first fall, the second either."""
    net = hidden([[1.0, -0.5], [0.5, 1.0], [0.25, -1.0]], [[1.0, 0.0, 0.5], [0.5, 1.0, 1.0]])
    box = properties.given(net, ["-1", "-1"], ["1", "1"])
    up = properties.monotone(net, [box], [0, 1], [0, 1], tolerance="0.05")
    assert verdicts(up, tmp_path / "up") == ["unsat", "unsat", "sat", "sat"]
    down = properties.monotone(net, [box], [1], [0, 1], decreasing=True, tolerance="0.05")
    assert verdicts(down, tmp_path / "down") == ["unsat", "sat"]
    assert down.properties[0].name == "monotone_box_x1_y0_down"
    with pytest.raises(InputError, match="the tolerance is 0: expected more than 0"):
        properties.monotone(net, [box], [0], [0], tolerance=0)


def test_fair_nets(tmp_path: Path) -> None:
    """A network that does not read the protected input is fair; one that reads it is not, where it can matter."""
    blind = hidden([[1.0, 0.0, -1.0], [0.5, 0.0, 1.0]], [[1.0, -0.5], [-0.25, 1.0]])
    reads = hidden([[1.0, 0.2, -1.0], [0.5, 0.0, 1.0]], [[1.0, -0.5], [-0.25, 1.0]])
    for name, net, expected in (("blind", blind, "unsat"), ("reads", reads, "sat")):
        box = properties.given(net, [0], [1])
        assert verdicts(properties.fair(net, [box], [1]), tmp_path / name) == [expected]
        assert verdicts(properties.fair(net, [box], [1], Within("0.01")), tmp_path / f"{name}-within") == [
            expected
        ]
    # Around a person far from the border the protected input cannot change the class.
    data = Dataset("d", np.array([[0.9, 0.5, 0.1]], np.float32), np.array([0]), 2)
    pixels = properties.Pixels((), (), (3,))
    ball = properties.around(reads, data, [0], "0.05")
    found = properties.fair(reads, ball, [1], pixels=pixels)
    assert found.properties[0].query.regions[0].upper[[1, 4]].tolist() == [1.0, 1.0]
    assert verdicts(found, tmp_path / "far") == ["unsat"]
    with pytest.raises(InputError, match="no protected input"):
        properties.fair(reads, ball, [])


DENSE = hidden([[1.0, -0.5], [0.5, 1.0]], [[1.0, -1.0], [0.5, 1.0]], "dense.onnx")
PRUNED = hidden([[1.0, 0.0], [0.5, 1.0]], [[1.0, -1.0], [0.5, 1.0]], "pruned.onnx")


def test_twins_within(tmp_path: Path) -> None:
    """On [0, 1]² relu(x0 − x1/2) and relu(x0) differ by 1/2 at most: that is the first outputs' largest difference."""
    box = properties.given(DENSE, [0], [1])
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 101)] * 2), axis=-1).reshape(-1, 2).astype(np.float32)
    real = np.abs(onnxrt.run(DENSE, grid).astype(np.float64) - onnxrt.run(PRUNED, grid)).max()
    assert real == pytest.approx(0.5, abs=1e-6)
    for delta, expected in (("0.501", "unsat"), ("0.499", "sat"), ("0.01", "sat")):
        found = properties.twins(DENSE, PRUNED, [box], Within(delta))
        assert verdicts(found, tmp_path / delta) == [expected], delta
    text = found.properties[0].text_2_0
    assert "(isomorphic-to f)" in text and "(== X[0,0] U[0,0])" in text


def test_right_in_the_dense_net_right_in_the_pruned(tmp_path: Path) -> None:
    """The lead of class 0 falls by at most 1/4 (0.5 · (1 − 0.5) · …): beyond that margin it is kept."""
    data = Dataset("d", np.array([[0.2, 0.75]], np.float32), np.array([1]), 2)
    grid = np.stack(np.meshgrid(np.linspace(0, 0.5, 201), np.linspace(0.45, 1, 201)), axis=-1).reshape(-1, 2)
    dense, pruned = (np.asarray(onnxrt.run(net, grid.astype(np.float32))) for net in (DENSE, PRUNED))
    lead, after = dense[:, 1] - dense[:, 0], pruned[:, 1] - pruned[:, 0]
    balls = properties.around(DENSE, data, [0], "0.3")
    assert balls.misclassified == ()
    assert verdicts(properties.twins(DENSE, PRUNED, balls, RightToo("3")), tmp_path / "never") == ["unsat"]
    inside = (np.abs(grid - [0.2, 0.75]) <= 0.3).all(axis=1)
    broken = lead[inside & (after < -1e-4)].max(initial=-np.inf)
    swapped = properties.twins(PRUNED, DENSE, balls, RightToo(0))
    harmed = (after[inside] >= 0) & (lead[inside] <= 0)
    expected = "sat" if broken >= 0 else "unsat"
    assert verdicts(properties.twins(DENSE, PRUNED, balls, RightToo(0)), tmp_path / "zero") == [expected]
    assert verdicts(swapped, tmp_path / "swapped") == ["sat" if harmed.any() else "unsat"]


def test_equivalent_files(tmp_path: Path) -> None:
    """Hidden neurons in another order compute the same; a changed weight does not."""
    turned = hidden([[0.5, 1.0], [1.0, -0.5]], [[-1.0, 1.0], [1.0, 0.5]], "turned.onnx")
    box = properties.given(DENSE, ["-1"], ["1"])
    for agreement in (Within("0.001"), SameClass()):
        name = type(agreement).__name__
        assert verdicts(properties.equivalent(DENSE, turned, [box], agreement), tmp_path / name) == ["unsat"]
        other = properties.equivalent(DENSE, PRUNED, [box], agreement)
        assert verdicts(other, tmp_path / f"{name}-other") == ["sat"]
    same = properties.equivalent(DENSE, DENSE, [box])
    assert "(equal-to f)" in same.properties[0].text
    assert verdicts(same, tmp_path / "same") == ["unsat"]


def test_random_twins_differ_as_much_as_sampled(tmp_path: Path) -> None:
    dense = onnx_model.from_proto(mlp([3, 8, 2], seed=1), "a.onnx")
    other = onnx_model.from_proto(mlp([3, 8, 2], seed=2), "b.onnx")
    x = np.random.default_rng(0).random((5000, 3), np.float32)
    seen = float(np.abs(onnxrt.run(dense, x).astype(np.float64) - onnxrt.run(other, x)).max())
    box = properties.given(dense, [0], [1])
    assert verdicts(properties.twins(dense, other, [box], Within(seen * 0.99)), tmp_path) == ["sat"]


def test_folders_share_files_and_keep_names_apart(tmp_path: Path) -> None:
    """Of several networks the same property is one file; other networks of the same name are numbered."""
    box = properties.given(DENSE, [0], [1])
    namesake = Model(PRUNED.proto, PRUNED.sha256, "elsewhere/dense.onnx")
    sets = [properties.within_range(net, [box], upper=9) for net in (DENSE, namesake)]
    both = [one for found in sets for one in found.properties]
    [listing] = properties.write(both, str(tmp_path), compress=True)
    lines = instances.read(listing)
    assert [(line.onnx, line.vnnlib) for line in lines] == [
        ("onnx/dense.onnx", "vnnlib/range_box.vnnlib"),
        ("onnx/dense_2.onnx", "vnnlib/range_box.vnnlib"),
    ]
    names = sorted(path.name for path in tmp_path.rglob("*.*"))
    assert names == ["dense.onnx.gz", "dense_2.onnx.gz", "instances.csv", "range_box.vnnlib.gz"]
    clash = [*both, *properties.within_range(DENSE, [box], upper=8).properties]
    with pytest.raises(InputError, match="two different properties are called 'range_box'"):
        properties.write(clash, str(tmp_path / "clash"))
    assert not (tmp_path / "clash").exists()


def test_misfits() -> None:
    three = linear([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [0.0, 0.0], "three.onnx")
    with pytest.raises(InputError, match=r"three.onnx: 3 inputs: dense.onnx has 2"):
        properties.twins(DENSE, three, [properties.given(DENSE, [0], [1])])
    two = onnx.ModelProto()
    two.CopyFrom(DENSE.proto)
    two.graph.output.add(name="a")
    with pytest.raises(UnsupportedError, match="1 inputs and 2 outputs: expected one of each"):
        properties.within_range(Model(two, "", "two"), [], upper=0)
    with pytest.raises(InputError, match="2 lower ends: expected 1 or 3"):
        properties.given(three, [0, 0], [1])
    with pytest.raises(InputError, match="input 1 would lie between 2 and 1"):
        properties.given(three, [0, 2, 0], [1])
    for agreement in (Within(0), SameClass(0)):
        with pytest.raises(InputError, match="expected more than 0"):
            properties.twins(DENSE, PRUNED, [properties.given(DENSE, [0], [1])], agreement)
    with pytest.raises(InputError, match="no class to keep"):
        properties.twins(DENSE, PRUNED, [properties.given(DENSE, [0], [1])])

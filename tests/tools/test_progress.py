"""How long it will still take."""

from __future__ import annotations

import pytest

from secateur.tools import progress as module
from secateur.tools.progress import progress


def test_steps_of_an_earlier_run_count_with_their_own_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", 0.0)
    with progress(5, "train") as step:
        step("resumed", 60.0)
        step("resumed", 60.0)
        now = 30.0
        step("done")
    assert capsys.readouterr().err.splitlines()[-1] == "train: 3/5, about 100 s left; done"

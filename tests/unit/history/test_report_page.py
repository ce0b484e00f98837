"""What the end-to-end tests measured comes out of its file as it went in."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from e2e.history.report import Row
from e2e.report import FILE, Report, page


def test_errors_are_told_with_their_counts(tmp_path: Path) -> None:
    errors = Counter({"send: HTTP 502": 14})
    row = Row("a gateway is killed", 429, {"http": 14}, 0.3, 0.4, 0, 0, 0, {"http": 0.4}, errors)
    report = Report(tmp_path)
    report.disruptions([row])
    report.figure("apply → Ready", 6.4, "s", "≤20 s")
    lines = (tmp_path / FILE).read_text().splitlines()
    assert json.loads(lines[0])["disruption"]["errors"] == {"send: HTTP 502": 14}
    text = page(lines)
    assert "a gateway is killed" in text
    assert "apply → Ready | 6.4 s" in text

"""The benchmark of the full-size net, at a size that any machine bears."""

from __future__ import annotations

import sys

import pytest

from benchmarks import full_size


def test_the_table_is_whole(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = "--device cpu --width 0.1 --side 64 --frames 2 --share 0.04 --no-profile --trials"
    monkeypatch.setattr(sys, "argv", ["full_size.py", *small.split(), "fast, channels last"])
    full_size.main()
    told, _, columns, _, first, second = capsys.readouterr().out.strip().splitlines()
    assert "0.04 of the steps were run" in told
    found = [dict(zip(columns.split("|"), line.split("|"), strict=True)) for line in (first, second)]
    assert [row[" rows "] for row in found] == [" 148 ", " 98 "]
    assert [row[" whole rows "] for row in found] == [" 53 ", " 34 "]
    assert all(float(row[" GB foretold "]) > 0.3 for row in found)
    assert float(found[1][" seconds "]) < float(found[0][" seconds "])

"""What a long bench has measured is kept line by line, and never mixed with what other settings gave."""

import pytest

from vla.bench.ledger import Ledger


def test_rows_come_back_and_a_line_that_was_cut_off_does_not(tmp_path):
    path = tmp_path / "deep" / "rows.jsonl"
    Ledger(path, {"seed": 1}).add("a", {"ok": True})
    with path.open("a") as lines:
        lines.write('{"key": "b", "ro')  # the power went
    again = Ledger(path, {"seed": 1})
    assert again.rows == {"a": {"ok": True}}
    again.add("b", [1, 2])
    assert Ledger(path, {"seed": 1}).rows == {"a": {"ok": True}, "b": [1, 2]}


def test_a_file_whose_first_line_was_cut_off_begins_anew(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"settings": {"se')
    Ledger(path, {"seed": 2}).add("a", 1)
    assert Ledger(path, {"seed": 2}).rows == {"a": 1}


def test_other_settings_are_named(tmp_path):
    Ledger(tmp_path / "rows.jsonl", {"seed": 1, "hz": 50})
    with pytest.raises(ValueError, match="was measured with another hz; give another out="):
        Ledger(tmp_path / "rows.jsonl", {"seed": 1, "hz": 60})

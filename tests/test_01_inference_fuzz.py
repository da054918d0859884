"""A few hundred changed files of each kind: all load, or are refused in one line.

tests/support/fuzz_files.py makes 20,000 of each.
"""

import pytest
from fuzz_files import KINDS, MEGABYTES, fuzz

CASES = 250


@pytest.mark.parametrize("kind", KINDS)
def test_changed_files_load_or_are_refused(kind):
    report = fuzz(kind, CASES)
    assert not report.crashes, report.crashes[0]
    assert report.megabytes < MEGABYTES, f"{report.megabytes:.0f} MB"
    assert report.loaded >= CASES // 100, "hardly a file loads: was anything behind the first check reached?"
    assert len(report.said) > 15, f"only {len(report.said)} different messages: do the changes reach the structure?"


def test_the_fuzz_sees_what_is_no_error_of_ours(monkeypatch):
    from minillm.model import hf_folder

    monkeypatch.setattr(hf_folder, "folder_config", lambda folder: {}["missing"])
    assert "KeyError" in fuzz("config", 3).crashes[0]

"""A damaged manifest is told in a line."""

import pytest

from benchmarks.testbed import manifest
from benchmarks.testbed.__main__ import main


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"measured": {}}'])
def test_damaged_manifest_is_refused(tmp_path, text, capsys):
    (tmp_path / manifest.NAME).write_text(text)
    with pytest.raises(ValueError, match="manifest"):
        manifest.read(tmp_path)
    assert main(["verify", "--weights", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_wrong_arguments_take_one_line(capsys):
    with pytest.raises(SystemExit) as ending:
        main(["verfiy"])
    assert ending.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1

"""Files that are whole or not there."""

from pathlib import Path

import pytest

from components.running.atomic import written_file


@pytest.mark.parametrize("name", ["a.png", "x" * 251 + ".png", "y" * 248 + ".nii.gz", "é" * 100 + ".png"])
def test_a_file_may_have_as_long_a_name_as_the_system_takes(name: str, tmp_path: Path) -> None:
    with written_file(tmp_path / name) as partial:
        partial.write_text("whole")
        assert partial.name.endswith(name[-4:])
        assert not (tmp_path / name).exists()
    assert [path.name for path in tmp_path.iterdir()] == [name]

"""Results as files: all or none, under names that a disk takes."""

from pathlib import Path

import pytest

from sima_core.lens import export


def test_a_folder_in_place_of_one_result_leaves_older_results(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in export.output_names("cat")]
    for path in paths[:-1]:
        path.write_bytes(b"older")

    def write_newer() -> None:
        with export.together(paths) as files:
            for file in files:
                file.write(b"newer")
            paths[-1].mkdir()  # while they are written

    with pytest.raises(IsADirectoryError):
        write_newer()
    assert [path.read_bytes() for path in paths[:-1]] == [b"older"] * 3
    assert len(list(tmp_path.iterdir())) == 4

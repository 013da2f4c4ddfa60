"""Files of one case are found by number or by name."""

from pathlib import Path

import pytest

from segmodels.data.modalities import cases, require_same_modalities
from segmodels.errors import InputError


def files(*names: str) -> list[Path]:
    return [Path(name) for name in names]


def test_cases_have_their_modalities_in_the_order_of_the_channels() -> None:
    brats = files("a/B-1-t1c.nii.gz", "a/B-1-seg.nii.gz", "a/B-1-t2f.nii.gz", "b/C_t1ce.nii", "b/C_flair.nii")
    found = cases([*brats, *files("c/x_0001.nii.gz", "c/x_0000.nii.gz", "c/y_0000.nii.gz", "d_0000.png")], 2)
    assert {path.as_posix(): [file.as_posix() for file in own] for path, own in found.items()} == {
        "a/B-1.nii.gz": ["a/B-1-t2f.nii.gz", "a/B-1-t1c.nii.gz"],
        "b/C.nii.gz": ["b/C_flair.nii", "b/C_t1ce.nii"],
        "c/x.nii.gz": ["c/x_0000.nii.gz", "c/x_0001.nii.gz"],
        "c/y_0000.nii.gz": ["c/y_0000.nii.gz"],
        "d_0000.png": ["d_0000.png"],
    }


def test_a_model_of_one_channel_takes_every_file_for_a_case() -> None:
    numbered = files("x_0000.nii.gz", "x_0001.nii.gz")
    assert cases(numbered, 1) == {path: (path,) for path in numbered}


def test_a_case_that_lacks_a_modality_and_has_another_is_not_whole() -> None:
    """Its files are as many as the channels, but the second would hold what is not the second modality."""
    right, wrong = files("x_0000.nii.gz", "x_0001.nii.gz"), files("y_0000.nii.gz", "y_0002.nii.gz")
    assert cases([*right, *wrong], 2) == {Path("x.nii.gz"): tuple(right)} | {path: (path,) for path in wrong}
    assert cases(wrong, 2) == {Path("y.nii.gz"): tuple(wrong)}  # of a model that was trained on such files
    named = files("x_flair.nii.gz", "x_t1.nii.gz", "y_flair.nii.gz", "y_t2.nii.gz")
    assert cases(named, 2) == {path: (path,) for path in named}


def test_cases_of_other_modalities_than_the_rest_are_named() -> None:
    same = {"a": ["flair", "t1"], "b": ["flair", "t1"]}
    require_same_modalities(same)
    require_same_modalities({})
    with pytest.raises(InputError, match=r"1 of 3 cases .* expected flair, t1 of each \(c has flair, t2\): add the"):
        require_same_modalities(same | {"c": ["flair", "t2"]})

"""Files of one case are found by number or by name."""

from pathlib import Path

from segmodels.data.modalities import cases


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

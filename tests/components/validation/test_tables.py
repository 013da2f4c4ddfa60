"""Tables of validate that grow with the dataset."""

import numpy as np
import pytest

from components.validation import tables
from segmodels.data.image_form import ImageForm

RGB, GREY = ImageForm(np.dtype(np.uint8), 3, 2), ImageForm(np.dtype(np.uint8), 1, 2)
FOUR = ImageForm(np.dtype(np.uint8), 4, 2)


def test_the_usual_form_is_found_without_comparing_all_with_all(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0
    equal = ImageForm.__eq__

    def counted(form: ImageForm, other: object) -> bool:
        nonlocal compared
        compared += 1
        return equal(form, other)

    monkeypatch.setattr(ImageForm, "__eq__", counted)
    forms = [ImageForm(np.dtype(np.uint8), 3, 2) for _ in range(500)]
    found = tables._forms([FOUR, GREY, None, *forms], [None] * 503)
    assert found["form"] == [str(FOUR), str(GREY), None, *[str(RGB)] * 500]
    assert [text is not None for text in found["unlike"][:4]] == [True, False, False, False]
    assert compared < 10 * len(forms)

"""Lists of names in error messages."""

import pytest

from components.running.wording import as_clause, first_few_alike

CAUSE = "the only value above 11: the ids (of all) may count from 1"


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], ""),
        (["a.png (12)"], "a.png (12)"),
        (["a.png", "b.png", "c.png"], "a.png, b.png and 1 more"),
        ([f"a.png (12; {CAUSE})", f"b.png (12; {CAUSE})", "c.png (3)"], f"a.png, b.png and 1 more (12; {CAUSE})"),
        ([f"a.png (12; {CAUSE})", f"b.png (13; {CAUSE})"], f"a.png (12), b.png (13); {CAUSE}"),
        (["a.png (12)", "a.png (12)", "b.png (13)"], "a.png (12), b.png (13)"),
        (["benign (1).png (12)", "malignant (1).png (12)"], "benign (1).png, malignant (1).png (12)"),
        (["a (1)", "b (1).png"], "a (1), b (1).png"),
    ],
)
def test_what_all_names_have_in_common_is_said_once(names: list[str], text: str) -> None:
    assert first_few_alike(names, 2) == text


@pytest.mark.parametrize(
    ("message", "clause"),
    [("Cannot be read.", "cannot be read"), ("MLflow is away", "MLflow is away"), ("A file", "a file"), ("", "")],
)
def test_a_message_within_a_sentence_keeps_the_capitals_of_names(message: str, clause: str) -> None:
    assert as_clause(ValueError(message)) == clause

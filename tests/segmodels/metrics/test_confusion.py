"""The confusion matrix: right, exact, and the same in numpy, numba and torch."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from label_maps import maps, reference
from rich.console import Console
from torchmetrics.functional.classification import multiclass_confusion_matrix

from segmodels.errors import InputError
from segmodels.metrics import ConfusionMatrix, confusion, counting, counting_numba

TYPES = [
    ("uint8", "uint8"),
    ("int16", "int16"),
    ("int32", "int32"),
    ("int64", "int64"),
    ("int64", "uint8"),
    ("uint32", "int64"),
]


@pytest.fixture(params=["numpy", "numba", "device"])
def implementation(request, monkeypatch):
    """Each way of counting, on maps of any size; "device" sends tensors of the CPU the way of CUDA's."""
    monkeypatch.setattr(counting, "COMPILED_FROM", 0)
    counting.compiled_tally.cache_clear()
    if request.param == "numpy":
        monkeypatch.setitem(sys.modules, "numba", None)
        monkeypatch.delitem(sys.modules, "segmodels.metrics.counting_numba")
        monkeypatch.delattr("segmodels.metrics.counting_numba")
    if request.param == "device":
        monkeypatch.setattr(confusion, "on_device", lambda labels: isinstance(labels, torch.Tensor))
    yield request.param
    counting.compiled_tally.cache_clear()


def as_input(labels, implementation):
    return torch.from_numpy(labels.copy()) if implementation == "device" else labels


def counts_after(matrix, prediction, target):
    """Update and read: on a device, wrong labels show when the counts are read."""
    matrix.update(prediction, target)
    return matrix.counts


def test_the_fixture_runs_the_implementation_that_it_names(implementation):
    assert counting.compiled_tally() is (counting.tally if implementation == "numpy" else counting_numba.tally)


@pytest.mark.parametrize("types", TYPES)
def test_counts_equal_scikit_learn_for_every_type(implementation, types):
    prediction, target = maps(types=types)
    matrix = ConfusionMatrix(19)
    matrix.update(as_input(prediction, implementation), as_input(target, implementation))
    assert matrix.counts.dtype == np.int64
    np.testing.assert_array_equal(matrix.counts, reference(prediction, target, 19))


def test_counts_equal_torchmetrics_for_tensors_of_any_shape():
    prediction, target = (torch.from_numpy(labels) for labels in maps((3, 4, 5, 67), types=("int64", "int64")))
    expected = multiclass_confusion_matrix(prediction, target, 19, ignore_index=255)
    np.testing.assert_array_equal(ConfusionMatrix.from_maps(prediction, target, 19).counts, expected.numpy())


def test_m3_labels_of_uint8_do_not_overflow_above_15_classes(implementation):
    # 21 * 20 + 20 wraps to 184 in uint8: row 8, column 16
    twenty = as_input(np.full((4, 5), 20, dtype=np.uint8), implementation)
    expected = np.zeros((21, 21), dtype=np.int64)
    expected[20, 20] = 20
    np.testing.assert_array_equal(ConfusionMatrix.from_maps(twenty, twenty, 21).counts, expected)


@pytest.mark.parametrize("types", [("uint8", "uint8"), ("int64", "int64")])
def test_m3_a_prediction_above_the_classes_is_refused_and_not_counted_in_the_next_row(implementation, types):
    prediction, target = maps(types=types)
    matrix = ConfusionMatrix.from_maps(prediction, target, 19)
    before = matrix.counts
    wrong = prediction.copy()
    wrong[target != 255] = 200
    with pytest.raises(InputError, match=r"prediction holds labels 200, expected 0\.\.18"):
        counts_after(matrix, as_input(wrong, implementation), as_input(target, implementation))
    if implementation != "device":
        np.testing.assert_array_equal(matrix.counts, before)


def test_m3_labels_outside_the_range_are_named(implementation):
    target = np.array([0, 1, 2, 255, 7, -3], dtype=np.int32)
    prediction = np.array([0, 1, 2, 99, 1, 1], dtype=np.int32)
    with pytest.raises(InputError, match=r"target holds labels -3, 7, expected 0\.\.2 or 255 for ignored pixels"):
        counts_after(ConfusionMatrix(3), as_input(prediction, implementation), as_input(target, implementation))


def test_m3_the_background_is_a_class_of_the_matrix():
    counts = ConfusionMatrix.from_maps(
        np.array([[0, 1, 0], [2, 1, 0], [2, 2, 1]]), np.array([[0, 2, 0], [2, 1, 0], [0, 2, 1]]), 3
    ).counts
    np.testing.assert_array_equal(counts, [[3, 0, 1], [0, 2, 0], [0, 1, 2]])


def test_ignored_pixels_count_nowhere_whatever_is_predicted_there(implementation):
    prediction, target = maps()
    other = np.where(target == 255, 77, prediction).astype(np.uint8)
    matrix = ConfusionMatrix.from_maps(as_input(other, implementation), as_input(target, implementation), 19)
    np.testing.assert_array_equal(matrix.counts, reference(prediction, target, 19))


def test_255_is_no_label_of_uint8_maps_when_minus_one_is_ignored(implementation):
    target = np.array([0, 1, 255], dtype=np.uint8)
    with pytest.raises(InputError, match=r"target holds labels 255, expected 0\.\.1 or -1"):
        counts_after(
            ConfusionMatrix(2, ignore_index=-1), as_input(target, implementation), as_input(target, implementation)
        )


def test_memory_layout_does_not_matter(implementation):
    prediction, target = maps((40, 40), classes=2)
    expected = reference(prediction, target, 2)
    forms = [(prediction[:, ::2], target[:, ::2]), (prediction.T, target.T), (prediction[1:, 1:], target[1:, 1:])]
    for p, t in forms:
        np.testing.assert_array_equal(
            ConfusionMatrix.from_maps(as_input(p, implementation), as_input(t, implementation), 2).counts,
            reference(p, t, 2),
        )
    if implementation != "device":
        target.flags.writeable = False
        for wide in (">i4", ">u8", "<u8"):
            np.testing.assert_array_equal(
                ConfusionMatrix.from_maps(prediction.astype(wide), target.astype(wide), 2).counts, expected
            )
        np.testing.assert_array_equal(ConfusionMatrix.from_maps(prediction.astype(bool), target, 2).counts, expected)


def test_batches_merged_in_any_way_give_the_matrix_of_the_whole(implementation):
    prediction, target = maps((6, 30, 30))
    whole = ConfusionMatrix.from_maps(prediction, target, 19)
    streamed = ConfusionMatrix(19)
    for p, t in zip(prediction, target, strict=True):
        streamed.update(as_input(p, implementation), as_input(t, implementation))
    first, second = (
        ConfusionMatrix.from_maps(prediction[:2], target[:2], 19),
        ConfusionMatrix.from_maps(prediction[2:], target[2:], 19),
    )
    for matrix in (streamed, first + second, second.merge(first)):
        np.testing.assert_array_equal(matrix.counts, whole.counts)
    np.testing.assert_array_equal(first.counts, reference(prediction[:2], target[:2], 19))


def test_empty_maps_count_nothing(implementation):
    empty = as_input(np.zeros((0, 4, 4), dtype=np.uint8), implementation)
    assert ConfusionMatrix.from_maps(empty, empty, 3).counts.sum() == 0


def test_counts_are_exact_at_ten_to_the_fifteen_pixels():
    huge = ConfusionMatrix.from_json({"num_classes": 2, "ignore_index": 255, "counts": [[10**15, 1], [0, 3]]})
    huge.update(np.array([0, 1, 1]), np.array([0, 0, 1]))
    assert huge.counts.tolist() == [[10**15 + 1, 2], [0, 4]]
    assert ConfusionMatrix.from_json((huge + huge).to_json()).counts.tolist() == [[2 * 10**15 + 2, 4], [0, 8]]


def test_the_counts_handed_out_are_a_copy():
    matrix = ConfusionMatrix(2)
    matrix.counts[0, 0] = 5
    assert matrix.counts.sum() == 0


def test_json_round_trip_through_a_file(tmp_path):
    prediction, target = maps()
    matrix = ConfusionMatrix.from_maps(prediction, target.astype(int), 19, ignore_index=255)
    (tmp_path / "confusion.json").write_text(matrix.to_json())
    again = ConfusionMatrix.from_json((tmp_path / "confusion.json").read_text())
    np.testing.assert_array_equal(again.counts, matrix.counts)
    assert (again.num_classes, again.ignore_index) == (19, 255)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        json.dumps({"num_classes": 2, "ignore_index": 255}),
        json.dumps({"num_classes": 2, "ignore_index": 255, "counts": [[1, 2], [3]]}),
        json.dumps({"num_classes": 2, "ignore_index": 255, "counts": [[0.5, 0.5], [0, 1]]}),
        json.dumps({"num_classes": 2, "ignore_index": 255, "counts": [[-1, 0], [0, 1]]}),
        json.dumps({"num_classes": 3, "ignore_index": 255, "counts": [[1, 0], [0, 1]]}),
    ],
)
def test_json_that_is_no_confusion_matrix_is_refused(text):
    with pytest.raises(InputError, match="confusion matrix"):
        ConfusionMatrix.from_json(text)


def test_wrong_arguments_are_refused(implementation):
    def update(prediction, target):
        ConfusionMatrix.from_maps(as_input(prediction, implementation), as_input(target, implementation), 3)

    with pytest.raises(InputError, match="take argmax"):
        update(np.zeros((2, 2), dtype=np.float32), np.zeros((2, 2), dtype=np.uint8))
    with pytest.raises(InputError, match=r"shape \(2, 3\) and target \(3, 2\)"):
        update(np.zeros((2, 3), dtype=np.uint8), np.zeros((3, 2), dtype=np.uint8))
    with pytest.raises(InputError, match="at least 2"):
        ConfusionMatrix(1)
    with pytest.raises(InputError, match="ignore index 1 is also one of the 3 classes"):
        ConfusionMatrix(3, ignore_index=1)
    with pytest.raises(InputError, match="cannot be added"):
        ConfusionMatrix(3) + ConfusionMatrix(3, ignore_index=-1)


def test_table_shows_scores_in_percent_and_the_commonest_mistake():
    matrix = ConfusionMatrix.from_json(
        {
            "num_classes": 4,
            "ignore_index": 255,
            "counts": [[60, 20, 20, 0], [0, 100, 0, 0], [10, 30, 60, 0], [0, 0, 0, 0]],
        }
    )
    console = Console(width=120, file=io.StringIO())
    console.print(matrix.table(["road", "car", "sky", "train"]))
    text = console.file.getvalue()
    rows = {
        name: next(line for line in text.splitlines() if line.strip(" │").startswith(name))
        for name in ("road", "car", "sky", "train", "mean")
    }
    assert "car 20.00" in rows["road"]
    assert "54.55" in rows["road"]  # IoU 60 / (100 + 70 - 60)
    assert "car 30.00" in rows["sky"]
    assert rows["train"].count("–") == 4
    assert "73.33" in rows["mean"]  # recall (60 + 100 + 60) / 3, the train left out
    assert "300 pixels, pixel accuracy 73.33, FWIoU 57.07" in text


RANK = """
import json, sys
import numpy as np
from torch import distributed
from segmodels.errors import InputError
from segmodels.metrics import ConfusionMatrix, confusion

folder, rank = sys.argv[1], int(sys.argv[2])
distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
with np.load(f"{folder}/maps.npz") as maps:
    matrix = ConfusionMatrix.from_maps(maps["prediction"][rank::2], maps["target"][rank::2], 19)
total = matrix.all_reduce()
# tensors of the CPU go the way of CUDA's: checked when read
confusion.on_device = lambda labels: hasattr(labels, "is_cuda")
import torch
matrix.update(torch.tensor([5]), torch.tensor([30 if rank else 3]))
try:
    matrix.all_reduce()
    message = "nothing raised"
except InputError as error:
    message = str(error)
print(json.dumps([total.counts.tolist(), message]))
distributed.destroy_process_group()
"""


def test_ranks_sum_to_the_matrix_of_the_whole_and_refuse_wrong_labels_together(tmp_path):
    prediction, target = maps((4, 20, 20))
    np.savez(tmp_path / "maps.npz", prediction=prediction, target=target)
    ranks = [
        subprocess.Popen([sys.executable, "-c", RANK, str(tmp_path), str(rank)], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    (first, message_of_0), (second, message_of_1) = (json.loads(rank.communicate(timeout=120)[0]) for rank in ranks)
    for counts in (first, second):
        np.testing.assert_array_equal(counts, reference(prediction, target, 19))
    assert message_of_0.startswith("labels outside 0..18 on 1 other rank")
    assert message_of_1.startswith("target holds labels 30")


def test_all_reduce_without_a_process_group_is_a_copy():
    matrix = ConfusionMatrix.from_maps(*maps(), 19)
    total = matrix.all_reduce()
    np.testing.assert_array_equal(total.counts, matrix.counts)
    total.merge(matrix)
    np.testing.assert_array_equal(total.counts, 2 * matrix.counts)

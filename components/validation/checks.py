"""The table of checks of a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from components.params.schema import ValidateParams

Table = Literal["samples", "classes", "splits"]

SUITES: Mapping[Table, str] = {
    "samples": "Images and masks",
    "classes": "Classes in each split",
    "splits": "Pairs in each split",
}

NAMES: Mapping[Table, list[str]] = {
    "samples": ["split", "id", "image", "annotation"],
    "classes": ["split", "class"],
    "splits": ["split"],
}
"""Columns that name a row."""


class Rule(NamedTuple):
    """A class in ``great_expectations.expectations``, and its arguments."""

    expectation: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Check:
    """One expectation, and how to speak about it.

    Attributes:
        name: key in the report.
        severity: a critical failure stops the pipeline.
        rule: condition that every row meets.
        expected: the condition as a sentence.
        problem: name of the rows that fail, in the plural.
        advice: next action for them.
        about: column that names a row that fails.
        detail: column with more about it; None or empty in a row: there is no more.
        table: the table whose rows are checked.
    """

    name: str
    severity: Literal["critical", "warning"]
    rule: Rule
    expected: str
    problem: str
    advice: str
    about: str = "image"
    detail: str | None = None
    table: Table = "samples"


OF_ANNOTATIONS = {"annotation", "annotation_error", "other_size", "unknown_labels", "void_share", "void_everywhere",
                  "md5s", "pixels", "lossy_mask", "alpha_alone", "taken_for_void", "one_off", "one_class", "misplaced",
                  "specks", "no_objects", "bare", "doubled", "unpaired", "alone", "shifted"}  # fmt: skip
"""Columns about annotations."""


def checks(params: ValidateParams, annotated: bool) -> list[Check]:
    """All checks, the gravest first; those of images alone where no sample is ``annotated``."""
    return [
        check
        for check in _all_checks(params)
        if annotated or OF_ANNOTATIONS.isdisjoint(map(str, check.rule.arguments.values()))
    ]


# fmt: off
def _all_checks(params: ValidateParams) -> list[Check]:
    side, void, bits = params.min_side, f"{params.max_void_share:.0%}", params.near_duplicate_distance
    return [
        Check("image_readable", "critical", _null("image_error"), "Every image can be read.",
              "images that cannot be read", "replace or remove them"),
        Check("annotation_present", "critical", _not_null("annotation"), "Every image is annotated.",
              "images without a mask", "add the masks or remove the images"),
        Check("annotation_readable", "critical", _null("annotation_error"),
              "Every mask can be read, and its values are meant as labels.",
              "masks that cannot be read", "replace or remove them", "annotation"),
        Check("same_size", "critical", _null("other_size"), "Every mask has the size of its image.",
              "masks of another size than their image", "export them again at the size of the image",
              "annotation", "other_size"),
        Check("labels_known", "critical", _null("unknown_labels"),
              "Masks hold only labels that the dataset's classes name.",
              "masks with unknown labels", "correct them or add the labels to the dataset's classes",
              "annotation", "unknown_labels"),
        Check("void_is_no_class", "critical", _null("taken_for_void"),
              "No class lacks training pixels while masks hold 255, the id that is void by default.",
              "classes without a training pixel while masks hold 255, which is void unless the classes file says"
              " otherwise",
              "if 255 is the class, give it this id; if it is void, write `!ignore, 255`; if 0 has become 255 (ids"
              " reduced by one, reduce_zero_label), make the masks again", "class", "taken_for_void", "classes"),
        Check("void_is_no_object", "critical", _null("alone"),
              "Training masks that hold void hold more than one class.",
              "splits that hold one class and void, which is neither learnt nor measured",
              "if void marks the objects (masks of 0 and 255), name the folders images/ and masks/ and set"
              " ingest.layout to folder", "split", "alone", "splits"),
        Check("something_labelled", "critical", _null("void_everywhere"), "No mask is void everywhere.",
              "masks that are void everywhere", "label them or remove the samples", "annotation", "void_everywhere"),
        Check("form_common", "critical", _null("unlike"),
              "All images have channels and a type that one model can take.",
              "images whose channels or type do not fit the others", "convert or remove them", detail="unlike"),
        Check("large_enough", "critical", _at_least("shorter_side", side),
              f"No side of an image is shorter than {side} pixels (validate.min_side).",
              f"images with a side shorter than {side} pixels", "remove them or lower validate.min_side",
              detail="shorter_side"),
        Check("ids_distinct", "critical", _distinct("split", "id", missing=False),
              "No two samples of a split have the same id.", "samples with the id of another one", "rename them"),
        Check("images_as_ingested", "critical", _equal("image_md5", "ingested_image_md5"),
              "No image has changed since the step ingest.",
              "images that have changed since the step ingest", "run it again"),
        Check("annotations_as_ingested", "critical", _equal("md5s", "ingested_md5s"),
              "No mask has changed since the step ingest.",
              "masks that have changed since the step ingest", "run it again", "annotation"),
        Check("pairs_fit", "warning", _null("unpaired"),
              "Label borders follow the edges of their own images more than those of other images.",
              "splits whose masks fit other images as well as their own",
              "look at the pictures: images and masks may be shuffled or shifted against each other", "split",
              "unpaired", "splits"),
        Check("volumes_in_place", "warning", _null("shifted"),
              "The affines of label maps and volumes place their voxels alike.",
              "label maps whose affine places them beside their volume",
              "they are read voxel by voxel, without the affines: look at the pictures, and resample the label maps"
              " onto their volumes if they do not fit", "annotation", "shifted"),
        Check("ids_in_place", "warning", _null("one_off"), "The masks' ids are not one off.",
              "first or last classes that never occur, though all others do",
              "look at the pictures, and count the ids as the dataset's classes do", "class", "one_off", "classes"),
        Check("things_have_objects", "warning", _null("no_objects"),
              "Classes whose objects are counted have objects.",
              "classes of things (`!things`) in a dataset without a single object",
              "only models of classes can be trained: add objects/ for models of objects, or remove the line",
              "class", table="classes"),
        Check("objects_complete", "warning", _null("bare"),
              "Every image that shows a class of things has objects, if any image has.",
              "images that show classes of things and have no object, unlike others",
              "for models of objects the things in them are background: add the files of their objects",
              "annotation", "bare"),
        Check("objects_in_place", "warning", _null("misplaced"),
              "Objects have their class in the class map, in at least half of their pixels.",
              "images with objects whose class the class map contradicts",
              "see whether objects and masks are of one version, and whether other objects hide them",
              detail="misplaced"),
        Check("objects_visible", "warning", _null("specks"), "No object is empty or a single pixel.",
              "images with objects of no or one pixel", "draw them again or remove them", detail="specks"),
        Check("objects_distinct", "warning", _null("doubled"), "No object is annotated twice.",
              "images with objects of the same class and pixels as another one",
              "remove the copies, each is learnt and measured as an object of its own", detail="doubled"),
        Check("masks_varied", "warning", _null("one_class"),
              "No mask has one class everywhere, unless such masks are common in the dataset.",
              "masks of one class everywhere, which few masks have", "see whether they were labelled at all",
              "annotation", "one_class"),
        Check("in_one_split", "warning", _null("also_in"), "No image is in two splits.",
              "images that are in two splits",
              "remove them from one split: otherwise the measured quality is too good", detail="also_in"),
        Check("unlike_other_splits", "warning", _null("near_duplicate_of"),
              f"No image looks like one of another split (perceptual hashes differ in more than {bits} of 64 bits).",
              "images that look like one of another split",
              "look at the pairs; if they show the same scene, put them into one group", detail="near_duplicate_of"),
        Check("images_distinct", "warning", _distinct("split", "content"), "No image is twice in a split.",
              "images that are more than once in their split", "remove the copies"),
        Check("upright", "warning", _null("image_orientation"),
              "No image has an EXIF or TIFF orientation that turns or mirrors it.",
              "images that their EXIF or TIFF orientation turns or mirrors",
              "each is read in the position that fits its annotation; where both fit, as stored (with the layout"
              " labelme as viewers show it): compare image and mask, and remove the orientation tag",
              detail="image_orientation"),
        Check("bands_read", "warning", _null("band_as_alpha"),
              "No TIFF image of 8 bits has a further band that it declares to be alpha, which is not read.",
              "TIFF images whose alpha channel, which is not read, is half transparent in most pixels",
              "if it is a band such as near infrared, store the files without declaring it alpha (gdal_translate"
              " -colorinterp_4 undefined -co ALPHA=NO)"),
        Check("one_picture", "warning", _null("animated"), "No image is an animation.",
              "images that are animations, whose first picture alone is read",
              "save each picture that counts as a file of its own", detail="animated"),
        Check("values_are_data", "warning", _null("no_data"),
              "No image holds the value that its file declares to be no data (GDAL_NODATA).",
              "TIFF images with pixels of the value that the file declares to be no data",
              "it is learnt as any other value: replace it by a value of the range, such as the mean, and make these"
              " pixels void in the masks", detail="no_data"),
        Check("range_used", "warning", _null("narrow"), "Images of 16 bits use their range of values.",
              "16-bit images that use a small part of their range",
              "they train as they are; a model of 8-bit images sees them nearly black, so multiply the values (12 bits:"
              " by 16) if they are to be mixed with others", detail="narrow"),
        Check("masks_lossless", "warning", _null("lossy_mask"), "No mask is a JPEG or lossy WebP file.",
              "masks in JPEG or lossy WebP files",
              "such compression changes label values at edges: export masks as PNG", "annotation"),
        Check("alpha_unused", "warning", _null("alpha_alone"),
              "No mask holds its labels in the alpha channel, which is not read.",
              "masks of one colour whose alpha channel alone differs between pixels",
              "alpha is ignored: store the labels in the colour channels", "annotation"),
        Check("mostly_labelled", "warning", _at_most("void_share", params.max_void_share),
              f"No mask is void in more than {void} of its pixels (validate.max_void_share).",
              f"masks that are void in more than {void} of their pixels",
              "see whether they should be labelled or removed", "annotation", "void_share"),
        Check("one_form", "warning", _one_value("form"), "All images have the same channels and type.",
              "different numbers of channels or types of pixels",
              "preprocess makes them alike: it repeats grey and drops the low byte of 16 bits; convert them first"),
        Check("one_size", "warning", _one_value("size"), "All images have one size.", "different sizes of images",
              "set train.augment.crop, so that images can be batched"),
        Check("classes_occur", "warning", _at_least("pixels", 1), "Every class occurs in every split.",
              "classes that never occur in a split",
              "they cannot be learnt or measured there; split again or drop the class", "class", "split", "classes"),
    ]
# fmt: on


def _null(column: str) -> Rule:
    return Rule("ExpectColumnValuesToBeNull", {"column": column})


def _not_null(column: str) -> Rule:
    return Rule("ExpectColumnValuesToNotBeNull", {"column": column})


def _equal(column: str, other: str) -> Rule:
    known = {"ignore_row_if": "either_value_is_missing"}
    return Rule("ExpectColumnPairValuesToBeEqual", {"column_A": column, "column_B": other, **known})


def _at_least(column: str, low: float) -> Rule:
    return Rule("ExpectColumnValuesToBeBetween", {"column": column, "min_value": low})


def _at_most(column: str, high: float) -> Rule:
    return Rule("ExpectColumnValuesToBeBetween", {"column": column, "max_value": high})


def _distinct(*columns: str, missing: bool = True) -> Rule:
    """No two rows have the same values; with ``missing``, rows without one of them do not count."""
    complete = {"ignore_row_if": "any_value_is_missing"} if missing else {}
    return Rule("ExpectCompoundColumnsToBeUnique", {"column_list": list(columns), **complete})


def _one_value(column: str) -> Rule:
    return Rule("ExpectColumnUniqueValueCountToBeBetween", {"column": column, "max_value": 1})

"""Images, masks and objects in folders beside a list of classes: the layout for one's own data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from segmodels.annotations import Annotation
from segmodels.checks import shown
from segmodels.data.classes_file import Classes, has_classes_file, read_classes
from segmodels.data.decoding import SUFFIXES
from segmodels.data.folder_files import files_below, is_leftover
from segmodels.data.inferred_classes import inferred_classes
from segmodels.data.label_files import read_mask
from segmodels.data.layouts.base import Layout, LayoutCard, Sample, register_layout
from segmodels.data.layouts.mads import Mads
from segmodels.data.layouts.mask_values import encode_labels
from segmodels.data.layouts.pairing import files_by_id, files_of_part, require_pairs, split_folders, without_ending
from segmodels.data.layouts.splits import groups_of, published_split, read_table, require_listed_masks, split_ids
from segmodels.data.layouts.yolo import Yolo
from segmodels.data.object_maps import read_objects
from segmodels.errors import InputError
from segmodels.labels import LabelMap

IMAGES = ("images", "image", "imgs", "img", "img_dir", "rgb", "original")
MASKS = (
    *("1st_manual", "masks", "labels", "mask", "label", "annotations", "ann_dir", "gt", "gts", "segmentations"),
    *("ground truth", "ground_truth", "groundtruth"),
)
"""Names of the folders of images and masks, in letters of any case. ``layout: auto`` looks for others than ``images``,
``masks``, ``labels`` and ``mask`` where no layout fits. Beside ``1st_manual`` (DRIVE) ``mask`` is the field of view.
"""


@register_layout("folder", LayoutCard("images, masks and objects in folders of one's own", "this project"))
class Folder(Layout):
    """A dataset in folders of one's own.

    The sample id is the path below ``images/`` without the ending: ``road/0001``. Images without ``masks/`` are not
    annotated: models that learn without labels train on them (``train.model: wnet``), and nothing is measured on them.

    Splits are the lists ``splits/*.txt`` (or ``train.txt``, ``val_list.txt`` and the like at the top) of ids or paths;
    samples in none of them are left out. Without lists splits stand in ``splits.csv`` with the header ``id,split``, or
    are the folders ``images/train``, ``images/val`` and ``images/test``, or ``train/images``, ``val/images`` and
    ``test/images``, in which all images lie; two of the three are enough, and ``valid``, ``dev`` and ``eval`` are val.
    Else ingest splits by group with a seed. A folder test without any mask is left out, and so are images in folders of
    other names.

    All masks may have the same suffix after the image's name: ``0001_mask.png`` of ``0001.jpg``. Other names of the two
    folders are read where no ``images/`` or ``masks/`` is there: ``image``, ``imgs``, ``img``,
    ``img_dir``, ``rgb``, ``original``; ``labels``, ``label``, ``mask``, ``annotations``, ``ann_dir``, ``gt``, ``gts``,
    ``segmentations``, ``ground truth``. Names of folders, lists and tables may have letters of any case.

    Images are read as stored: 8 or 16 bits, grey, RGB or, in TIFF files, any number of channels. Masks hold label ids
    as grey values or palette indices, or the colours of the classes file: in RGB, or in a palette all of whose colours
    in use the file gives. JPEG changes values: such masks are read only of two classes with the ids 0 and 255, each
    pixel as the nearer one.

    ``classes.txt`` has one class per line, in the order of the train ids, in one of these forms (``#`` starts a comment
    line):

        road
        road, 7                     label id in the masks; default: the number of the class, from 0
        road, 128, 64, 128          colour
        road, 128, 64, 128, 7       both
        !ignore, 11                 what counts nowhere, in the same forms, in any number of lines; default: id 255,
                                    unless a class has it
        !things, car, person        the classes whose objects are counted; the others are stuff. Default: with
                                    objects/ every class but the first, else none

    ``classes.json`` says the same. A class may be just its name, and all but ``classes`` may be left out:

        {"classes": [{"name": "road", "color": [128, 64, 128], "id": 7}, "car"],
         "ignore": [255, {"color": [0, 0, 0]}], "things": ["car"]}

    ``class_dict.csv`` (or ``label_class_dict.csv``) with the header ``name,r,g,b`` gives names and colours where
    neither of the two is there.

    Without a classes file the masks must leave no doubt: 0 and 255, 65535 or 1 are background and foreground, and so
    are black and white, whatever indices a palette has for them; palette indices are ``class 0``, ``class 1``, ... in
    the colours on which the palettes of all masks agree, 255 is void; colours become classes that are named by them
    (``#804080``), black first.

    ``objects/`` holds, under the names of the masks, maps of object ids, 0 where there is none: grey PNG of 8 or 16
    bits, or TIFF with a page for each layer where objects overlap (an object is on one page). Each object has the class
    that most of its pixels have in the mask, unless ``NAME.json`` beside the map gives classes, by name, and crowds:

        [{"id": 1, "class": "car"}, {"id": 2, "class": "person", "crowd": true}]
    """

    tree: ClassVar[str] = """\
images/road/0001.jpg        any depth of folders; png jpg bmp tif gif webp pgm ppm
masks/road/0001.png         the same path below masks/, or road/0001_mask.png; or labels/. Without: not annotated
train/images/0001.jpg       or a folder for each split, in it images/ and masks/ (and objects/)
objects/road/0001.png       optional: ids of objects, png or tif
objects/road/0001.json      optional: classes and crowds of the objects
classes.txt                 classes.json or class_dict.csv; may be left out where masks are binary, palettes or colours
splits/train.txt            optional, with val.txt and test.txt: one sample id per line
splits.csv                  optional, in place of splits/: header id,split
groups.csv                  optional: header id,group; default: a patient of TCGA, else every sample its own group
image_labels.csv            optional: header id,label; class of the whole image, a number from 0
"""

    marks = "images/ and masks/ (or train/images/ and train/masks/, ...), or images/ and classes.txt or classes.json"

    @classmethod
    def fits(cls, root: Path) -> bool:
        if not _has(root, IMAGES[0]) or Mads.fits(root):  # whose trees are alike
            return False
        parts = [part for part in ("masks", "labels", "mask") if _has(root, part)]
        annotated = "masks" in parts or any(files_of_part(root, part) for part in parts)
        return annotated or (has_classes_file(root) and not Yolo.resembles(root))

    @classmethod
    def resembles(cls, root: Path) -> bool:
        return bool(_named(root, IMAGES) and _masks(root)) and not Mads.fits(root)

    def __init__(self, root: str | Path) -> None:
        super().__init__(root)
        self._pictures = _named(self.root, IMAGES)
        if not self._pictures:
            raise InputError(
                f"dataset folder {self.root} has no folder images/, expected images/, masks/ (unless the images are not"
                f" annotated) and classes.txt (layout {self.name!r}): add it or check the path"
            )
        _require_one_spelling(self.root, self._pictures)
        self._masks, self._objects = _masks(self.root), _named(self.root, ("objects",))
        self._annotated = bool(self._masks)
        if not self._annotated and (other := _like_masks(self.root, self._pictures)):
            raise InputError(
                f"dataset folder {self.root} has no folder masks/, but files in {other}/ have the names of the images:"
                " rename it to masks if it holds the masks, as PNG, TIFF or BMP files, or move it away"
            )
        if self._annotated:
            _require_one_place(self.root, self._pictures, self._masks)
        if self._objects and not self._annotated:
            raise InputError(f"dataset folder {self.root} has objects/ but no masks/, expected both: add the masks")
        masks = list(files_of_part(self.root, self._masks).values()) if self._annotated else []
        volumes = self._annotated and not masks and files_of_part(self.root, self._masks, (".nii", ".gz"))
        if volumes:
            raise InputError(
                f"dataset folder {self.root} holds NIfTI volumes, {next(iter(volumes.values()))}, which the layout"
                " folder does not read: rename the folders to imagesTr/ and labelsTr/ and write dataset.json with the"
                " names of the labels (layout nifti)"
            )
        if self._annotated and not masks and files_of_part(self.root, self._pictures):
            raise _without_pictures(self.root, self._masks)
        infer = masks and not has_classes_file(self.root)
        self._classes: Classes = inferred_classes(self.root, masks) if infer else read_classes(self.root)
        self.assumed_void = self._classes.assumed_void

    @cached_property
    def labels(self) -> LabelMap:
        labels, things = self._classes.labels, self._classes.things
        if things is None and self._objects:
            things = frozenset(range(1, labels.num_classes))
        return replace(labels, things=things or frozenset())

    def samples(self) -> Iterable[Sample]:
        images = files_of_part(self.root, self._pictures)
        if not images:
            raise InputError(
                f"{self.root / self._pictures} holds no images, expected files ending in {' '.join(SUFFIXES)}: add them"
            )
        self.left_out = self._elsewhere()
        if self._annotated:
            hidden = _of_hidden_test(images, files_of_part(self.root, self._masks))
            self.left_out += [images.pop(sample_id) for sample_id in hidden]
        places = list(split_ids(self.root, images))
        listed = {sample_id for _, sample_id in places}
        masks = self._partners(images, listed, self._masks, "mask") if self._annotated else {}
        require_listed_masks(self.root, masks)
        objects = self._partners(images, listed, self._objects, "map of objects") if self._objects else {}
        rows = without_ending(images, files_of_part(self.root, self._objects, (".json",))) if self._objects else {}
        groups, labels = groups_of(self.root, images), self._image_labels(images)
        self.left_out += [file for sample_id, file in images.items() if sample_id not in listed]
        for split, sample_id in places:
            files = tuple(part[sample_id] for part in (masks, objects, rows) if sample_id in part)
            yield Sample(sample_id, split, images[sample_id], files, groups[sample_id], labels.get(sample_id))

    def annotation(self, sample: Sample) -> Annotation | None:
        if not sample.files:
            return None
        mask, *objects = sample.files
        classes = encode_labels(self.labels, read_mask(self.root / mask, self._classes.colors), mask)
        annotation = Annotation.of_classes(classes, sample.image_label)
        if not objects:
            return annotation
        layers, segments, empty = read_objects(self.root, objects, classes, self.labels)
        return replace(annotation, layers=layers, segments=segments, empty=empty)

    def _partners(self, images: dict[str, str], listed: set[str], part: str, kind: str) -> dict[str, str]:
        files = without_ending(images, files_of_part(self.root, part))
        require_pairs(self.root, images, files, kind, listed)
        return files

    def _elsewhere(self) -> list[str]:
        """Images in folders that are no splits, or beside those at the top: ``extra/images/0001.jpg``."""
        at_top = (self.root / self._pictures).is_dir()
        read = {self._pictures, self._masks, self._objects} if at_top else set(split_folders(self.root, self._pictures))
        homes = (path.name for path in sorted(self.root.iterdir()) if not is_leftover(path.name))
        parts = (f"{home}/{self._pictures}" for home in homes if home not in read)
        return [file for part in parts for file in files_by_id(self.root, part).values()]

    def _image_labels(self, images: dict[str, str]) -> dict[str, int]:
        labels = read_table(self.root, "image_labels.csv", "label", images)
        if wrong := [f"{label!r} for {sample_id}" for sample_id, label in labels.items() if not label.isdecimal()]:
            raise InputError(
                f"{self.root / 'image_labels.csv'} has the label {wrong[0]}, expected the number of a class, counted"
                " from 0"
            )
        return {sample_id: int(label) for sample_id, label in labels.items()}


def _of_hidden_test(images: Iterable[str], masks: Iterable[str]) -> list[str]:
    """Ids of images in a folder test that has no masks at all, as competitions publish it."""
    annotated = {name.partition("/")[0] for name in masks}
    folders = ((name, *name.partition("/")[:2]) for name in images)
    return [name for name, top, slash in folders if slash and top not in annotated and published_split(top) == "test"]


def _has(root: Path, part: str) -> bool:
    """Whether there is a folder ``part``, at the top or in those of the splits."""
    return (root / part).is_dir() or bool(split_folders(root, part))


def _masks(root: Path) -> str:
    """The folder of masks as it is spelled, the first that holds pictures; else ``masks``; empty without one."""
    found = (_named(root, (part,)) for part in MASKS)
    return next((part for part in found if part and files_of_part(root, part)), _named(root, ("masks",)))


def _without_pictures(root: Path, masks: str) -> InputError:
    """That a folder of masks holds none that can be read."""
    homes = [root / masks] if (root / masks).is_dir() else [root / home / masks for home in split_folders(root, masks)]
    endings = sorted({Path(name).suffix or name for home in homes for name in files_below(home)})
    return InputError(
        f"dataset folder {root} has no mask in {masks}/, which holds"
        f" {f'files ending in {shown(endings)}' if endings else 'no files'}, expected pictures (png, tif, bmp): save"
        f" the masks as such, grey with label ids, or remove {masks}/ if the images are not annotated"
    )


def _like_masks(root: Path, pictures: str) -> str:
    """The name of a folder in which most of the images have a file of their name, as in a folder of masks."""
    wanted = {path.stem for path in map(Path, files_of_part(root, pictures).values())}
    known = {pictures.lower(), "objects", "splits"}
    others = (path for path in root.iterdir() if path.name.lower() not in known and not is_leftover(path.name))
    for folder in sorted(path for path in others if path.is_dir()):
        stems = {path.stem for path in folder.iterdir() if path.is_file()}
        found = wanted & (stems | {stem.rpartition(mark)[0] for stem in stems for mark in "_-."})
        if 2 * len(found) > len(wanted):
            return folder.name
    return ""


def _named(root: Path, names: Sequence[str]) -> str:
    """The first of ``names`` that is a folder at the top or in those of the splits, as spelled there; else empty."""
    homes = [root, *(root / path.name for path in root.iterdir() if published_split(path.name) and path.is_dir())]
    spelled = {path.name.lower(): path.name for home in homes for path in home.iterdir() if path.is_dir()}
    exact = set(spelled.values())
    return next((name if name in exact else spelled[name] for name in names if name in spelled), "")


def _require_one_place(root: Path, pictures: str, masks: str) -> None:
    """Raises InputError: a split has images and masks of its own beside those at the top, and would not be read."""
    if not (root / pictures).is_dir():
        return
    own = sorted(set(split_folders(root, pictures)) & set(split_folders(root, masks)))
    if own:
        raise InputError(
            f"dataset folder {root} has images in {pictures}/ and in {own[0]}/{pictures}/, expected all at the top or"
            f" all in folders of splits: move {pictures}/ and {masks}/ into the folder of the split that they are"
            " (train/)"
        )


def _require_one_spelling(root: Path, pictures: str) -> None:
    """Raises InputError: a split has its images in a folder of another name, and would be left out."""
    if (root / pictures).is_dir():
        return
    homes = (home for home in root.iterdir() if published_split(home.name) and home.is_dir())
    lacking = [home for home in homes if not (home / pictures).is_dir()]
    others = sorted(path for home in lacking for path in home.iterdir() if path.name.lower() in IMAGES)
    if others:
        raise InputError(
            f"dataset folder {root} has images in {pictures}/ of one split and in {others[0].relative_to(root)}/ of"
            f" another, expected one name: rename the latter to {pictures}"
        )

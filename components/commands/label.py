"""Propose masks for images that have none, as a dataset that a person corrects."""

from __future__ import annotations

import filecmp
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.commands.image_reading import THREADS, batches, find_images, read_ahead, read_image
from components.running.atomic import written_file
from components.running.progress_bar import track
from components.running.wording import first_few, others_in
from segmodels.errors import InputError

if TYPE_CHECKING:
    from segmodels.annotations import Annotation
    from segmodels.labels import LabelMap

CLASSES = "classes.json"


def label(model: str, images: Path, out: Path) -> None:
    """Propose masks for every image below a folder that has none yet, as a dataset in layout ``folder``.

    Writes to ``out``, with the images' own names and subfolders:
        images/NAME: the image; where ``images`` is that folder already, it stays as it is.
        masks/NAME.png: class ids, with the classes' colours as palette.
        objects/NAME.png, or NAME.tif where objects overlap, and NAME.json: ids and classes of the objects, of models
            that find objects. Segment Anything finds everything in an image, as objects of one class.
        classes.json: names, colours and things.

    An image whose mask is in ``out`` already, with any ending that the layout reads, keeps it: corrected masks stay
    when further images are labelled.

    Args:
        model: ``models:/NAME@champion``, ``models:/NAME/VERSION`` or the folder of a trained model.
        images: folder of images, or one of them; other files in the folder are left alone.
        out: folder of the dataset.

    Raises:
        InputError: no such model, a model of volumes, no images, two images of one name, another picture of an image's
            name in ``out``, or a dataset of other classes. Also at the end, when the other images are done, for images
            that could not be read.
        TransientError: the model registry does not answer.
    """
    folder, found = find_images(images, out / "masks")
    if not images.resolve().is_relative_to(out.resolve()):
        found = [path for path in found if not (folder / path).resolve().is_relative_to(out.resolve())]
    paths = _without_mask(folder, found, out)

    from components.tracking.model_registry import bundle_folder
    from segmodels.data.nifti import is_nifti
    from segmodels.inference.bundle import load_bundle
    from segmodels.inference.predictor import Predictor, choose_device

    with bundle_folder(model) as bundle_path:
        bundle = load_bundle(bundle_path)
    if bundle.spatial_dims != 2:
        raise InputError(f"model {model} takes volumes, expected a model of images: layout folder holds no volumes")
    predictor = Predictor(bundle, choose_device())
    labels = predictor.labels
    if not predictor.task.reads_objects:
        labels = replace(labels, things=frozenset())
    _write_classes(out, labels)
    problems = [
        f"{path} is a volume, but layout folder holds images: save its slices" for path in filter(is_nifti, paths)
    ]
    pictures = {path: (path,) for path in paths if not is_nifti(path)}
    large: list[Path] = []
    empty: list[Path] = []
    with ThreadPoolExecutor(THREADS) as pool:
        ahead = read_ahead(pool, partial(read_image, predictor, [], None), folder, pictures)
        for batch in batches(track(ahead, "labelling", len(pictures)), problems, large):
            for (path, _), result in zip(batch, predictor.results([image for _, image in batch]), strict=True):
                annotation = result.annotation(labels)
                _copy(folder / path, out / "images" / path)
                write_annotation(out, path, over_stored_pixels(annotation, folder / path), labels)
                if labels.things and not annotation.segments:
                    empty.append(path)
    problems += [f"{path} is too large to be predicted whole: cut it into parts" for path in large]
    if empty:
        print(
            f"no object was found in {len(empty)} images ({first_few([path.as_posix() for path in empty])}): add their"
            " objects, or keep them as images without any"
        )
    if problems:
        raise InputError(
            f"{len(problems)} of {len(paths)} images could not be labelled"
            f"{others_in(out, len(paths) - len(problems))}: {first_few(problems)}"
        )
    kept = f", {len(found) - len(paths)} have masks already" if len(found) > len(paths) else ""
    print(f"{len(paths)} images have proposals{kept}: correct {out / 'masks'}, then ingest {out} as layout folder")


def _without_mask(folder: Path, found: list[Path], out: Path) -> list[Path]:
    """The images in ``folder`` that have no mask in the dataset ``out``.

    Raises:
        InputError: the dataset holds another picture under the name of one of them.
    """
    from segmodels.data.folder_files import composed
    from segmodels.data.layouts.pairing import files_by_id, without_ending

    ids = {path: composed(path.with_suffix("").as_posix()) for path in found}
    pictures = files_by_id(out, "images")
    for path, name in ids.items():
        if name in pictures and not _same_bytes(folder / path, out / pictures[name]):
            raise InputError(
                f"{folder / path} is another picture than {out / pictures[name]}, which has its name in the dataset:"
                " rename one"
            )
    masks = without_ending({*pictures, *ids.values()}, files_by_id(out, "masks"))
    return [path for path, name in ids.items() if name not in masks]


def _same_bytes(one: Path, other: Path) -> bool:
    return one.samefile(other) or filecmp.cmp(one, other, shallow=False)


def over_stored_pixels(annotation: Annotation, path: Path) -> Annotation:
    """Over the pixels as layout folder reads them: no EXIF orientation turns them, as it does for a model."""
    from segmodels.data.decoding import picture_orientation
    from segmodels.data.geometry import as_stored

    orientation = picture_orientation(path)
    return annotation if orientation is None else annotation.changed(lambda map: as_stored(map, orientation))


def write_annotation(out: Path, path: Path, annotation: Annotation, labels: LabelMap) -> None:
    """masks/NAME.png, and of labels with things objects/NAME.png or NAME.tif, and NAME.json; the mask is written last.

    Args:
        path: of the image, relative to images/.
    """
    from segmodels.results import ClassMap

    if labels.things:
        _write_objects(out / "objects" / path, annotation, labels)
    with written_file(out / "masks" / path.with_suffix(".png")) as partial_file:
        partial_file.write_bytes(ClassMap(annotation.classes).files(labels)[".png"])


def _write_objects(target: Path, annotation: Annotation, labels: LabelMap) -> None:
    import numpy as np
    import tifffile
    from PIL import Image

    layers = annotation.layers
    one, several = target.with_suffix(".png"), target.with_suffix(".tif")
    for earlier in (one, several):  # of a command that was stopped
        earlier.unlink(missing_ok=True)
    with written_file(several if len(layers) > 1 else one) as partial_file:
        if len(layers) > 1:
            tifffile.imwrite(partial_file, layers, photometric="minisblack", compression="zlib", maxworkers=1)
        else:
            layer = layers[0] if len(layers) else np.zeros(annotation.size, np.uint16)
            with partial_file.open("wb") as file:
                Image.fromarray(layer).save(file, "PNG")
    rows: list[dict[str, Any]] = [{"id": own.id, "class": labels.classes[own.label]} for own in annotation.segments]
    with written_file(target.with_suffix(".json")) as partial_file:
        partial_file.write_text(json.dumps(rows), encoding="utf-8")


def _copy(source: Path, target: Path) -> None:
    if source.resolve() != target.resolve():
        with written_file(target) as partial_file:
            shutil.copyfile(source, partial_file)


def _write_classes(out: Path, labels: LabelMap) -> None:
    """Raises InputError where the dataset has other classes."""
    pairs = zip(labels.classes, labels.palette, strict=True)
    content: dict[str, Any] = {"classes": [{"name": name, "color": list(color)} for name, color in pairs]}
    if labels.things:
        content["things"] = [labels.classes[label] for label in sorted(labels.things)]
    if (out / "classes.txt").is_file() or (out / CLASSES).is_file():
        from segmodels.data.classes_file import read_classes

        known = read_classes(out).labels.classes
        if known != labels.classes:
            raise InputError(
                f"dataset {out} has the classes {', '.join(known)}, but the model knows {', '.join(labels.classes)}:"
                " choose another folder, or a model of the same classes"
            )
        if (out / "masks").is_dir() and (out / "objects").is_dir() != bool(labels.things):
            ours, theirs = ("objects", "classes") if labels.things else ("classes", "objects")
            raise InputError(
                f"dataset {out} has {theirs}, but the model finds {ours}: choose another folder, or a model that finds"
                f" {theirs}"
            )
        return
    with written_file(out / CLASSES) as partial_file:
        partial_file.write_text(json.dumps(content, indent=1), encoding="utf-8")

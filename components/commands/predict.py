"""Turn a folder of images into masks and overlays."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.commands.image_reading import IMAGES_AT_ONCE, THREADS, batches, find_images, read_ahead, read_image
from components.running.progress_bar import track
from components.running.wording import first_few, others_in
from segmodels.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from components.commands.annotation_files import AnnotationFiles
    from components.commands.coco_results import CocoResults
    from segmodels.inference.predictor import Predictor


def predict(
    model: str,
    images: Path,
    out: Path,
    window: int | None = None,
    overlap: float | None = None,
    weighting: str | None = None,
    flip: bool | None = None,
    scales: tuple[float, ...] | None = None,
    crf: bool | None = None,
    annotations: str | None = None,
    points: tuple[str, ...] | None = None,
    boxes: tuple[str, ...] | None = None,
) -> None:
    """Predict every image below a folder with the settings that the model was measured with.

    Writes to ``out``, with the images' own names and subfolders:
        masks/NAME.png: class ids, with the classes' colours as palette (16-bit grey above 255 classes); of other tasks
            than semantic segmentation, the files of their results.
        overlays/NAME.jpg: the image with the result drawn over it.
        results.json (masks), boxes.json and images.json: of objects, as pycocotools reads them.
        panoptic.json and panoptic/NAME.png: of panoptic maps, as panopticapi reads them.
        classes.csv: id, class and colour.
        labelme/NAME.json or coco.json: with ``annotations``.

    A photo with an EXIF orientation is predicted as viewers show it, and so lie its mask and overlay. What COCO's tools
    read (results.json, boxes.json, panoptic.json, coco.json) lies over the pixels as stored, as COCO's annotations do.

    An image of more than 33.5 million pixels (``large_images.LARGE``) is read row by row and needs ``window``, unless
    the model sees images at a fixed size. Its class map is masks/NAME.tif, tiled and deflated; objects that a border of
    a window cuts are joined. Its overlay has 4096 pixels at most. With a TIFF file in grey or RGB, uncompressed or
    deflated, neither the image nor its class map is ever whole in memory; files of other kinds are read whole, and
    panoptic maps are whole in memory.

    The mask of a GeoTIFF file is masks/NAME.tif with the same georeference. A world file beside an image (.tfw, .pgw,
    .jgw, .wld) and its .prj are copied to the mask.

    A volume is a NIfTI file, with modalities on its fourth axis or in files of their own: CASE_0000.nii.gz,
    CASE_0001.nii.gz, ... (nnU-Net) or CASE_flair.nii.gz, CASE_t1.nii.gz, ... (BraTS). Its mask is masks/NAME.nii.gz,
    or masks/CASE.nii.gz, with the affine of the volume; its overlay shows one slice. Models of images predict it slice
    by slice.

    A promptable model (Segment Anything) gives a mask for each object that ``points`` and ``boxes`` name, the same in
    every image, and without them for everything that it finds.

    Args:
        model: ``models:/NAME@champion``, ``models:/NAME/VERSION`` or the folder of a trained model.
        images: folder of images or volumes, or one of them; other files in the folder are left alone.
        out: folder for the results; those of an earlier ``predict`` are replaced.
        window: side of a sliding window in pixels (of volumes: of each axis), for images too large to be predicted
            whole; 0 predicts whole images. Without this and the following options, the settings that the model was
            measured with apply.
        overlap: smallest share of a window that the next one overlaps, 0 to below 1.
        weighting: of a window's pixels where windows overlap: gaussian or uniform.
        flip: average with the mirrored image.
        scales: average over these scales of the image, or of each window.
        crf: refine by the image's edges with a dense CRF (``DenseCRF``'s defaults); whole images only.
        annotations: also write the results for correction by hand, as polygons for labelme or as masks in COCO's JSON:
            labelme or coco. Not of volumes and of images of more than 33.5 million pixels.
        points: of each object its clicks, in pixels: x,y on it or x,y,0 beside it, several with semicolons between
            them: 120,80 "40,60;45,90,0".
        boxes: of each object left,top,right,bottom in pixels. With points too, the first of each are of one object, and
            so on.

    Raises:
        InputError: no such model, no images, two images of one name, points and boxes that cannot be read, or an option
            that the model's task does not have.
            Also at the end, when the other images are done, for images that could not be read.
        TransientError: the model registry does not answer.
    """
    folder, paths = find_images(images, out)

    from components.commands.annotation_files import annotation_files
    from components.commands.coco_results import CocoResults
    from components.commands.mask_files import require_own_masks, write, write_classes
    from components.commands.volume_slices import results_of
    from components.tracking.model_card import describe_settings
    from components.tracking.model_registry import bundle_folder
    from segmodels.data.image_form import NARROW
    from segmodels.data.modalities import cases
    from segmodels.data.nifti import is_nifti
    from segmodels.inference.bundle import load_bundle
    from segmodels.inference.predictor import Predictor, choose_device
    from segmodels.prompts import parse_prompts
    from segmodels.tasks.registry import settings_to_dict

    require_own_masks(out)
    prompts = parse_prompts(points or (), boxes or ()) or None
    with bundle_folder(model) as bundle_path:
        bundle = load_bundle(bundle_path)
    if annotations and (bundle.spatial_dims != 2 or any(map(is_nifti, paths))):
        raise InputError(
            f"--annotations {annotations} is for images, but the model or the input is of volumes: leave it out"
        )
    measured = settings_to_dict(bundle.task.settings)
    side = [window] * bundle.spatial_dims if window else window
    settings = _overridden(
        measured, side, {"overlap": overlap, "weighting": weighting}, flip, scales, crf, bundle.task.name
    )
    predictor = Predictor(bundle, choose_device(), settings)
    if not predictor.task.takes_prompts:
        predictor.check_prompts(prompts, ())
    files = annotation_files(annotations, folder, out, predictor.labels) if annotations else None
    if settings != measured:
        print(f"measured with {describe_settings(measured)}; predicting with {describe_settings(settings)}")
    write_classes(out, predictor.labels)
    parts = cases(paths, predictor.volume_channels)
    coco = CocoResults(folder, out, predictor.labels)

    problems: list[str] = []
    narrow: list[str] = []
    large: list[Path] = []
    with ThreadPoolExecutor(THREADS) as pool:
        written: deque[Future[None]] = deque()
        read = partial(read_image, predictor, narrow, prompts)
        ahead = read_ahead(pool, read, folder, parts)
        for batch in batches(track(ahead, "predicting", len(parts)), problems, large):
            results = results_of(predictor, [image for _, image in batch], [prompts] * len(batch))
            for (path, image), result in zip(batch, results, strict=True):
                source = folder / parts[path][0]
                written.append(pool.submit(write, out, source, path, image, result, predictor.labels))
                written.append(pool.submit(coco.add, path, result))
                if files:
                    written.append(pool.submit(_annotate, files, path, image, result))
            while len(written) > 2 * IMAGES_AT_ONCE:
                written.popleft().result()
        for future in written:
            future.result()
    if files:
        files.close()
    for path in large:
        try:
            _predict_large(predictor, folder, path, out, coco)
            if files:
                raise InputError(f"{path} is too large for {annotations}: its result is written without annotations")
        except InputError as error:
            said = str(error)
            problems.append(said if str(path) in said else f"{path}: {said}")
    if coco.close():
        print(
            "no object was found in any image: results.json and boxes.json are empty lists, which pycocotools' loadRes"
            " does not take; read images.json, which has no annotations, as the results instead"
        )
    done = len(parts) - len(problems)
    if narrow:
        print(
            f"the model takes images of 8 bits and saw {len(narrow)} images of 16 bits nearly black, as their values"
            f" are below {NARROW} of 65535 ({first_few(sorted(narrow))}): scale the values (12 bits: times 16)"
        )
    if problems:
        raise InputError(
            f"{len(problems)} of {len(parts)} images could not be predicted{others_in(out, done)}:"
            f" {first_few(problems)}"
        )
    print(f"{done} images: masks and overlays are in {out}")


def _overridden(
    measured: Mapping[str, Any],
    window: list[int] | int | None,
    of_windows: Mapping[str, Any],
    flip: bool | None,
    scales: tuple[float, ...] | None,
    crf: bool | None,
    task: str,
) -> dict[str, Any]:
    """The settings that the model was measured with, overridden by the command line's.

    Raises:
        InputError: an option that the task does not have.
    """
    asked = {
        "flip": flip,
        "scales": None if scales is None else list(scales),
        "crf": {} if crf else None,
        "sliding_window": {**(measured.get("sliding_window") or {}), "size": window} if window else None,
    }
    asked = {name: value for name, value in asked.items() if value is not None}
    if other := [option.replace("sliding_", "") for option in asked if option not in measured]:
        raise InputError(
            f"--{other[0]} is given, but the model is of {task} segmentation, which has no such setting: leave it out"
        )
    off = {name for name, is_off in (("crf", crf is False), ("sliding_window", window == 0)) if is_off}
    settings = {**measured, **asked, **dict.fromkeys(off & measured.keys())}
    given = {name: value for name, value in of_windows.items() if value is not None}
    if given and not settings.get("sliding_window"):
        raise InputError(f"--{next(iter(given))} needs a sliding window: give --window too")
    return settings | ({"sliding_window": settings["sliding_window"] | given} if given else {})


def _annotate(files: AnnotationFiles, path: Path, image: np.ndarray, result: Any) -> None:
    files.add(path, (image.shape[0], image.shape[1]), result.regions())


def _predict_large(predictor: Predictor, folder: Path, path: Path, out: Path, coco: CocoResults) -> None:
    from components.commands.mask_files import write_large, write_large_result
    from segmodels.data.large_images import open_rows

    with open_rows(folder / path) as image:
        if not predictor.gives_rows:
            result = predictor.large(image)
            write_large_result(out, path, image, result, predictor.labels)
            coco.add(path, result)
            return
        rows = (row for rows in predictor.rows(image) for row in rows)
        write_large(
            out, folder, path, image, track(rows, f"predicting the rows of {path}", image.height), predictor.labels
        )

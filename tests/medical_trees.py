"""Trees of volumes and of medical and biological images."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from tree_files import RNG, SIZE, halves, photo, save, save_nifti, tree, write_text


@tree("dsb2018")
def dsb2018(root: Path) -> Path:
    """Three nuclei, two of which overlap."""
    for name in ("0a" * 32, "1b" * 32):
        home = root / "stage1_train" / name
        save(home / "images" / f"{name}.png", RNG.integers(0, 256, (*SIZE, 4), dtype=np.uint8))
        for number, (rows, columns) in enumerate(
            ((slice(2, 8), slice(2, 8)), (slice(6, 12), slice(6, 12)), (slice(16, 20), slice(20, 30)))
        ):
            mask = np.zeros(SIZE, np.uint8)
            mask[rows, columns] = 255
            save(home / "masks" / f"{number:064}.png", mask)
    return root


@tree("isbi2012")
def isbi2012(root: Path) -> Path:
    home = root / "data" / "membrane"
    for number in range(3):
        save(home / "train" / "image" / f"{number}.png", RNG.integers(0, 256, SIZE, dtype=np.uint8))
        save(home / "train" / "label" / f"{number}.png", halves(255, 0))
        save(home / "test" / f"{number}.png", RNG.integers(0, 256, SIZE, dtype=np.uint8))
    return root


def isbi2012_stacks(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name in ("train-volume", "test-volume", "train-labels"):
        pages = [halves(255, 0) if "labels" in name else np.full(SIZE, 60 * page, np.uint8) for page in range(3)]
        first, *others = (Image.fromarray(page) for page in pages)
        first.save(root / f"{name}.tif", save_all=True, append_images=others)
    return root


@tree("ph2")
def ph2(root: Path) -> Path:
    home = root / "PH2Dataset"
    for number, name in enumerate(("IMD002", "IMD003", "IMD437")):
        photo(home / "PH2 Dataset images" / name / f"{name}_Dermoscopic_Image" / f"{name}.bmp")
        mask = halves(0, 255)
        lesion = home / "PH2 Dataset images" / name / f"{name}_lesion" / f"{name}_lesion.bmp"
        save(lesion, np.repeat(mask[:, :, None], 3, axis=2) if number == 0 else mask > 0)
        save(home / "PH2 Dataset images" / name / f"{name}_roi" / f"{name}_R1_Label3.bmp", mask > 0)
    table = (
        "|| Name   || Histological Diagnosis || Clinical Diagnosis || Asymmetry ||\n"
        "|| IMD002 ||                        || 0                  || 0         ||\n"
        "|| IMD003 || Common Nevus           || 1                  || 0         ||\n"
        "|| IMD437 || Melanoma               || 2                  || 2         ||\n"
        "\nLegend:\nClinical Diagnosis:\t0 - Common Nevus; 1 - Atypical Nevus; 2 - Melanoma\n"
    )
    write_text(home / "PH2_dataset.txt", table)
    return root


@tree("nifti")
def nifti(root: Path) -> Path:
    for number in range(3):
        volume = np.arange(6 * 5 * 4, dtype=np.float32).reshape(6, 5, 4)
        labels = np.zeros((6, 5, 4), np.uint8)
        labels[2:4, 1:3, 3] = 1
        save_nifti(root / "imagesTr" / f"la_{number:03}.nii.gz", volume)
        save_nifti(root / "labelsTr" / f"la_{number:03}.nii.gz", labels)
    write_text(root / "dataset.json", json.dumps({"labels": {"0": "background", "1": "left atrium"}}))
    return root


@tree("brats")
def brats(root: Path) -> Path:
    for case in ("brats_2013_pat0005_1", "brats_2013_pat0006_1"):
        home = root / "brats2015TrainingData" / "train" / case
        labels = np.zeros((6, 5, 4), np.float32)
        labels[2, 2, 1], labels[3, 2, 2] = 4, 2
        for number, part in enumerate(("Flair_subtrMeanDivStd", "T1c_subtrMeanDivStd", "OTMultiClass", "brainmask")):
            save_nifti(home / f"{part}.nii.gz", labels if number == 2 else np.full((6, 5, 4), number, np.float32))
        write_text(home / "License_CC_BY_NC_SA_3.0.txt", "CC BY-NC-SA 3.0\n")
    return root


def brats2023(root: Path) -> Path:
    """Values of the modalities are 0 to 3 in the order of the channels."""
    for number in range(2):
        case = f"BraTS-GLI-{number:05}-000"
        labels = np.zeros((6, 5, 4), np.uint8)
        labels[2, 2, 1], labels[3, 2, 2] = 3, 2
        for value, part in enumerate(("t2f", "t1n", "t1c", "t2w")):
            save_nifti(root / case / f"{case}-{part}.nii.gz", np.full((6, 5, 4), value, np.int16))
        save_nifti(root / case / f"{case}-seg.nii.gz", labels)
    return root

"""PH2 (Mendonca, EMBC 2013): dermoscopic images with the lesion's mask and the diagnosis."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from segmodels.annotations import Annotation
from segmodels.data.label_files import read_mask
from segmodels.data.layouts.base import LayoutCard, Sample, register_layout
from segmodels.data.layouts.mask_values import inside
from segmodels.data.layouts.published import Published
from segmodels.errors import InputError
from segmodels.files import read_plain_text
from segmodels.labels import LabelMap

IMAGES, TABLE = "PH2 Dataset images", "PH2_dataset.txt"


@register_layout(
    "ph2",
    LayoutCard(
        "PH2, skin lesions and their diagnoses",
        "https://www.fc.up.pt/addi/ph2%20database.html",
        "200, no splits: 80 common nevi, 80 atypical nevi, 40 melanomas",
        "research and benchmarking, no redistribution",
        "register at https://www.fc.up.pt/addi/ph2%20database.html and unpack PH2Dataset.rar",
    ),
)
class Ph2(Published):
    """PH2. Masks are BMP files of 1 or 24 bits. With ``PH2_dataset.txt`` the diagnosis is the image label: 0 common
    nevus, 1 atypical nevus, 2 melanoma.
    """

    places = ("", "PH2Dataset/")
    marks = "the folder 'PH2 Dataset images' (PH2Dataset)"
    tree: ClassVar[str] = """\
PH2Dataset/
  PH2 Dataset images/IMD002/IMD002_Dermoscopic_Image/IMD002.bmp
  PH2 Dataset images/IMD002/IMD002_lesion/IMD002_lesion.bmp
  PH2_dataset.txt                                              optional: table with Name and Clinical Diagnosis
"""

    @classmethod
    def begins(cls, folder: Path) -> bool:
        return (folder / IMAGES).is_dir()

    @classmethod
    def published(cls) -> LabelMap | None:
        return LabelMap(("background", "lesion"), ((0, 0, 0), (255, 255, 255)), {0: 0, 1: 1})

    def samples(self) -> Iterable[Sample]:
        images, masks = {}, {}
        for name, file in self.files(IMAGES).items():
            sample = name.partition("/")[0]
            if name == f"{sample}/{sample}_Dermoscopic_Image/{sample}":
                images[sample] = file
            elif name == f"{sample}/{sample}_lesion/{sample}_lesion":
                masks[sample] = file
        labels = self._diagnoses()
        for sample, image, mask in self.paired(images, masks):
            if labels and sample not in labels:
                raise InputError(f"{self.root / self.top / TABLE} has no row for {sample}, expected one: add it")
            yield Sample(sample, None, image, (mask,), group=sample, image_label=labels.get(sample))

    def annotation(self, sample: Sample) -> Annotation | None:
        (mask,) = sample.files
        lesion = inside(read_mask(self.root / mask), mask)
        return Annotation.of_classes(self.labels.encode(lesion.astype("uint8")), sample.image_label)

    def _diagnoses(self) -> dict[str, int]:
        """Image -> clinical diagnosis, empty without the table. Cells stand between ``||`` or tabs."""
        path = self.root / self.top / TABLE
        if not path.is_file():
            return {}
        found: dict[str, int] = {}
        columns: list[str] = []
        for number, line in enumerate(read_plain_text(path).splitlines(), start=1):
            parts = line.strip().strip("|").split("||") if "||" in line else line.split("\t")
            cells = [part.strip() for part in parts]
            if "Name" in cells and "Clinical Diagnosis" in cells:
                columns = cells
            elif columns and cells[0].startswith("IMD"):
                row = dict(zip(columns, cells, strict=False))
                if row.get("Clinical Diagnosis") not in ("0", "1", "2"):
                    raise InputError(
                        f"{path} line {number} is {line.strip()[:100]!r}, expected a clinical diagnosis of 0, 1 or 2:"
                        " correct it"
                    )
                found[row["Name"]] = int(row["Clinical Diagnosis"])
        if not found:
            raise InputError(
                f"{path} has no row with Name and Clinical Diagnosis, expected the table of PH2: restore it"
            )
        return found

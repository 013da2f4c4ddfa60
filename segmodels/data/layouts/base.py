"""The interface of a dataset layout on disk. Adding one is a single file in this folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

from numpy.typing import NDArray

from segmodels.annotations import Annotation
from segmodels.data.decoding import picture_orientation, picture_size, read_pixels
from segmodels.data.sizes import require_one_size
from segmodels.errors import InputError
from segmodels.labels import LabelMap
from segmodels.registry import Registry


@dataclass(frozen=True)
class Sample:
    """One image with what is known about it. Paths are relative to the layout's root.

    ``files`` are all further files that the sample is read from: those of its annotation first, then further parts of
    its image (other modalities). ``split`` is ``train``, ``val``, ``test``, a name of the dataset's own, or None where
    the dataset ships no splits. Samples of one ``group`` (a patient, a video, a source drawing) never go to different
    splits. ``image_label`` is the class of the whole image (a diagnosis), counted from 0; None where the dataset has
    none.
    """

    id: str
    split: str | None
    image: str
    files: tuple[str, ...]
    group: str
    image_label: int | None = None

    @property
    def annotation_file(self) -> str | None:
        """The first of ``files``: what errors about the annotation name."""
        return self.files[0] if self.files else None


@dataclass(frozen=True)
class Archive:
    """A file of a dataset at a public address: ``python -m components fetch`` downloads and unpacks it.

    Attributes:
        url: of a zip or tar file.
        into: folder of the dataset that it is unpacked into, with a final slash; empty for the dataset's own.
        part: the only folder of the archive that is wanted, with a final slash; ``*/`` stands for any one folder. Its
            content is unpacked without the folders above it.
        size: number of bytes, as ``stated`` says.
        sha256, md5: digests, as ``stated`` says; none where nobody states one.
        stated: who states size and digest.
    """

    url: str
    into: str = ""
    part: str = ""
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None
    stated: str = ""


@dataclass(frozen=True)
class LayoutCard:
    """About a layout.

    Attributes:
        reads: what it reads, in a few words.
        source: where its form is defined: address or paper.
        samples: numbers of images per split, as published.
        licence: of the data.
        get: how to get the data; beside ``archives`` what else there is to say.
        archives: its files at public addresses.
    """

    reads: str
    source: str
    samples: str = ""
    licence: str = ""
    get: str = ""
    archives: tuple[Archive, ...] = ()


class Layout(ABC):
    """One dataset organisation, as its authors publish it. Never writes.

    Attributes:
        name: that it is registered under.
        tree: what the folder looks like, for people to compare with.
        marks: files and folders by which ``layout: auto`` knows it, in words.
        turned: whether a picture is turned by its EXIF orientation where both positions fit its annotation.
        automatic: whether ``layout: auto`` looks for it; further views of a dataset are chosen by name.
        neighbours: slices of a volume on each side of an image that are further channels of it (2.5-D).
        assumed_void: label id that counts as void by a default of the layout, not because the dataset says so.
        left_out: files without their other half or a place in the lists of splits, which ``samples`` left out.
    """

    name: ClassVar[str]
    tree: ClassVar[str]
    marks: ClassVar[str] = ""
    automatic: ClassVar[bool] = True
    turned: ClassVar[bool] = False
    neighbours: int = 0
    assumed_void: int | None = None

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.left_out: list[str] = []
        if not self.root.is_dir():
            raise InputError(f"dataset folder {self.root} is not there (layout {self.name!r}): check the path")

    @classmethod
    def fits(cls, root: Path) -> bool:
        """Whether the folder looks like this layout, by names of files alone."""
        return False

    @classmethod
    def resembles(cls, root: Path) -> bool:
        """Whether the folder may be read as this layout where no layout fits."""
        return False

    @classmethod
    def published(cls) -> LabelMap | None:
        """The classes that every copy of the dataset has; None where they come with the files."""
        return None

    @property
    @abstractmethod
    def labels(self) -> LabelMap:
        """Classes, palette, source id -> train id, things and further maps."""

    @abstractmethod
    def samples(self) -> Iterable[Sample]:
        """All samples, in a stable order."""

    @abstractmethod
    def annotation(self, sample: Sample) -> Annotation | None:
        """In train ids, at the size of the annotation's own files; None: the sample is not annotated.

        Raises:
            InputError: file missing or broken; names it.
            UnknownLabelsError: a label that ``labels`` does not know; names the file.
        """

    def annotation_size(self, sample: Sample) -> tuple[int, int] | None:
        """Height and width of the annotation as far as its file's header tells; None where there is none."""
        return None if sample.annotation_file is None else picture_size(self.root / sample.annotation_file)

    def not_organised(self) -> InputError:
        """That the folder lacks what the layout is known by."""
        return InputError(
            f"dataset folder {self.root} is not organised as layout {self.name!r}, expected {self.marks}: check the"
            " path"
        )

    def read_image(self, sample: Sample) -> NDArray:
        """Pixels as stored, ``(H, W, C)`` or ``(D, H, W, C)``: integers of up to 16 bits or float32.

        The EXIF or TIFF orientation of a picture turns it where that alone fits the annotation, where both the stored
        and the turned picture fit and the layout is ``turned``, and where there is no annotation.

        Raises:
            InputError: file missing or broken; names it.
        """

        def turns(stored: tuple[int, int], shown: tuple[int, int]) -> bool:
            size = self.annotation_size(sample)
            if size != stored:
                return True
            own = None if sample.annotation_file is None else picture_orientation(self.root / sample.annotation_file)
            return shown == stored and (self.turned or own is not None)

        return read_pixels(self.root / sample.image, turns)


LAYOUTS: Registry[Layout, LayoutCard] = Registry("layout", "segmodels.data.layouts", "ingest.layout takes")

LayoutType = TypeVar("LayoutType", bound=type[Layout])


def register_layout(name: str, card: LayoutCard) -> Callable[[LayoutType], LayoutType]:
    """Decorator for a ``Layout``: ``open_layout(name, root)`` opens it."""

    def add(layout: LayoutType) -> LayoutType:
        layout.name = name
        return LAYOUTS.register(name, card)(layout)

    return add


def list_layouts() -> list[str]:
    """Names of all known layouts, sorted."""
    return LAYOUTS.names()


def check_sizes(sample: Sample, image: NDArray, annotation: Annotation) -> None:
    """Check that an annotation has the size of its image.

    Raises:
        InputError: it does not; names both files.
    """
    require_one_size(sample.annotation_file, annotation.size, f"its image {sample.image}", image.shape[:-1])

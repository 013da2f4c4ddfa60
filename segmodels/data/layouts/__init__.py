"""Dataset layouts on disk, one file each."""

from segmodels.data.layouts.base import (
    LAYOUTS,
    Layout,
    LayoutCard,
    Sample,
    check_sizes,
    list_layouts,
    register_layout,
)
from segmodels.data.layouts.opening import AUTO, find_layout, open_layout

__all__ = [
    "AUTO",
    "LAYOUTS",
    "Layout",
    "LayoutCard",
    "Sample",
    "check_sizes",
    "find_layout",
    "list_layouts",
    "open_layout",
    "register_layout",
]

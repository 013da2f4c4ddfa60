"""Dataset layouts on disk, one file each."""

from segmodels.data.layouts.base import (
    LAYOUTS,
    Layout,
    LayoutCard,
    Sample,
    check_sizes,
    list_layouts,
    open_layout,
    register_layout,
)

__all__ = [
    "LAYOUTS",
    "Layout",
    "LayoutCard",
    "Sample",
    "check_sizes",
    "list_layouts",
    "open_layout",
    "register_layout",
]

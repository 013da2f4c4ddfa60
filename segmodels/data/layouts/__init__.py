"""Dataset layouts on disk, one file each."""

from segmodels.data.layouts.base import Layout, Sample, list_layouts, open_layout

__all__ = ["Layout", "Sample", "list_layouts", "open_layout"]

"""Names under which mmsegmentation publishes the tensors of layers that more than one model uses."""

from __future__ import annotations

import re
from collections.abc import Sequence

Names = Sequence[tuple[str, str]]
"""Pairs of a pattern and what stands in its place, applied in turn."""


def renamed(key: str, names: Names) -> str:
    """``key`` with every pattern of ``names`` replaced, in their order."""
    for pattern, ours in names:
        key = re.sub(pattern, ours, key)
    return key


NORM = (r"\.(bn|gn)\.", ".norm.")
"""Names of ``ConvModule``, here ``ConvNormAct``; they come before the names that follow."""

AUXILIARY_HEAD: Names = (
    (r"^auxiliary_head\.convs\.0\.conv\.", "aux_classifier.0."),
    (r"^auxiliary_head\.convs\.0\.bn\.", "aux_classifier.1."),
    (r"^auxiliary_head\.conv_seg\.", "aux_classifier.4."),
)
"""Names of ``FCNHead``."""

SEPARABLE: Names = (
    (r"\.depthwise_conv\.conv\.", ".0."),
    (r"\.depthwise_conv\.norm\.", ".1."),
    (r"\.pointwise_conv\.conv\.", ".3."),
    (r"\.pointwise_conv\.norm\.", ".4."),
)
"""Names of ``layers.aspp.separable_conv``."""

ASPP: Names = (
    (r"^image_pool\.1\.conv\.", "convs.0.1."),
    (r"^image_pool\.1\.norm\.", "convs.0.2."),
    *((rf"^aspp_modules\.{i}\.", f"convs.{i + 1}.") for i in range(4)),
    (r"^bottleneck\.", "project."),
    *SEPARABLE,
    (r"^(convs\.\d|project)\.conv\.", r"\1.0."),
    (r"^(convs\.\d|project)\.norm\.", r"\1.1."),
)
"""Names of ``layers.aspp.ASPP`` with the pooled image first."""

FPN: Names = (
    (r"^neck\.lateral_convs\.(\d)\.conv\.", r"fpn.laterals.\1."),
    (r"^neck\.fpn_convs\.(\d)\.conv\.", r"fpn.outputs.\1."),
)

SEMANTIC_BRANCH: Names = tuple(
    # an upsampling without weights stands between two convolutions there
    (rf"^scale_heads\.(\d)\.{2 * i}\.", rf"branch.levels.\1.{i}.")
    for i in range(3)
)

"""The loss of soft labels: a distribution over the classes for every pixel instead of one class."""

from __future__ import annotations

import torch
from torch import Tensor


def soft_label_loss(logits: Tensor, soft_labels: Tensor) -> Tensor:
    """Kullback-Leibler divergence from the prediction to soft labels, mean over the pixels that have labels; 0 if no
    pixel has.

    The gradient is that of the cross-entropy, whose place it takes (self-correction: Li 2019, 1910.09777). The authors'
    code divides by the number of classes as well; here it is on the scale of the cross-entropy.

    Args:
        logits: (B, C, *spatial), raw.
        soft_labels: (B, C, *spatial), each pixel's sum 1, or 0 for all classes where a pixel does not count.
    """
    with torch.autocast(logits.device.type, enabled=False):
        log_probabilities = logits.float().log_softmax(dim=1)
        divergence = torch.xlogy(soft_labels, soft_labels) - soft_labels * log_probabilities
        return divergence.sum() / soft_labels.sum().clamp_min(1e-12)

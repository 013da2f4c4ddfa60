"""Data-parallel training beyond torch: batch norm over all processes, on CPUs too."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_functional
from torch import Tensor, nn


class SynchronizedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm with the statistics of the batches of all processes, on any device.

    torch.nn.SyncBatchNorm does the same on CUDA only. Same parameters, buffers and names as ``nn.BatchNorm2d``.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"input has {input.dim()} dimensions, expected at least 2")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized():
            return super().forward(input)
        x = input.float()
        over = [0, *range(2, x.dim())]
        count = torch.full((1,), float(x.numel() // x.shape[1]), device=x.device)
        sums = torch.cat([x.sum(over), (x * x).sum(over), count])
        sums = dist_functional.all_reduce(sums)
        channels = x.shape[1]
        total = sums[-1].detach()
        mean = sums[:channels] / total
        variance = (sums[channels : 2 * channels] / total - mean * mean).clamp_min(0)
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                assert self.num_batches_tracked is not None
                self.num_batches_tracked.add_(1)
                momentum = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
                self.running_mean.lerp_(mean.detach(), momentum)
                self.running_var.lerp_(variance.detach() * total / (total - 1), momentum)
        shape = (1, channels) + (1,) * (x.dim() - 2)
        scale = torch.rsqrt(variance + self.eps)
        if self.affine:
            output = (x - mean.view(shape)) * (scale * self.weight).view(shape) + self.bias.view(shape)
        else:
            output = (x - mean.view(shape)) * scale.view(shape)
        return output.to(input.dtype)


def synchronize_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Replace every batch norm so that its statistics are those of all processes; state_dict keys stay."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for name, child in model.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and not isinstance(child, SynchronizedBatchNorm):
            norm = SynchronizedBatchNorm(
                child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
            )
            norm.load_state_dict(child.state_dict())
            norm.train(child.training)
            setattr(model, name, norm)
        else:
            synchronize_batch_norm(child, device)
    return model

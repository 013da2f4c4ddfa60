"""HRNet (Wang et al., Deep High-Resolution Representation Learning for Visual Recognition, TPAMI 2020, arXiv
1908.07919).

Branches of several resolutions run in parallel and exchange their maps after every four blocks; the finest stays at
stride 4. The keys are those of the authors' release and of timm. As in the paper's segmentation networks maps are
upsampled bilinearly (the classification checkpoints used nearest neighbours), to the size of the map they are added to,
so that any input size works.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from segmodels.encoders.base import Encoder, check_output_stride
from segmodels.encoders.registry import register_encoder
from segmodels.encoders.resnet import BasicBlock, Bottleneck
from segmodels.layers.blocks import check_images, resize


class Exchange(nn.Module):
    """Parallel branches of basic blocks, then every branch gets the sum of all: coarser ones through 1x1 and
    upsampling, finer ones through strided 3x3.
    """

    def __init__(self, widths: Sequence[int], blocks: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(width, width, 1, 1, 1) for _ in range(blocks))) for width in widths
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_path(widths, j, i) for j in range(len(widths))) for i in range(len(widths))
        )
        self.relu = nn.ReLU()

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        fused = []
        for i, total in enumerate(maps):
            for j, x in enumerate(maps):
                if j != i:
                    y = self.get_submodule(f"fuse_layers.{i}.{j}")(x)
                    total = total + (resize(y, maps[i].shape[-2:]) if j > i else y)
            fused.append(self.relu(total))
        return fused


def _path(widths: Sequence[int], source: int, target: int) -> nn.Module:
    """From the map of one branch to the channels (and, downwards, the size) of another."""
    if source == target:
        return nn.Identity()
    if source > target:
        return nn.Sequential(nn.Conv2d(widths[source], widths[target], 1, bias=False), nn.BatchNorm2d(widths[target]))
    steps = [_down(widths[source], widths[source]) for _ in range(target - source - 1)]
    last = nn.Sequential(nn.Conv2d(widths[source], widths[target], 3, 2, 1, bias=False), nn.BatchNorm2d(widths[target]))
    return nn.Sequential(*steps, last)


def _down(in_channels: int, out_channels: int, stride: int = 2) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU()
    )


class HRNet(Encoder):
    """Maps: the four branches after the last exchange (strides 4, 8, 16, 32; ``width`` times 1, 2, 4, 8 channels).

    Args:
        width: channels of the finest branch.
        blocks: basic blocks in a branch between two exchanges, and bottlenecks of the first stage.
        exchanges: number of exchanges in stages 2, 3 and 4.
    """

    classifier = ("incre_modules.", "downsamp_modules.", "final_layer.", "classifier.", "head.")
    first_layer = "conv1.weight"

    def __init__(
        self,
        width: int,
        in_channels: int = 3,
        output_stride: int = 32,
        blocks: int = 4,
        exchanges: tuple[int, int, int] = (1, 4, 3),
    ) -> None:
        super().__init__()
        check_output_stride("HRNet", output_stride, (32,))
        self.in_channels = in_channels
        self.channels = tuple(width * factor for factor in (1, 2, 4, 8))
        self.strides = (4, 8, 16, 32)
        self.conv1 = nn.Conv2d(in_channels, 64, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, 2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.layer1 = nn.Sequential(*(Bottleneck(64 if i == 0 else 256, 64, 1, 1, 1) for i in range(blocks)))
        self.transition1 = nn.ModuleList([_down(256, width, stride=1), nn.Sequential(_down(256, 2 * width))])
        self.stage2 = nn.ModuleList(Exchange(self.channels[:2], blocks) for _ in range(exchanges[0]))
        self.transition2 = self._new_branch(2)
        self.stage3 = nn.ModuleList(Exchange(self.channels[:3], blocks) for _ in range(exchanges[1]))
        self.transition3 = self._new_branch(3)
        self.stage4 = nn.ModuleList(Exchange(self.channels, blocks) for _ in range(exchanges[2]))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def _new_branch(self, branches: int) -> nn.ModuleList:
        """The coarsest map, halved, opens another branch; the others stay as they are (no layer, but an index in the
        keys).
        """
        return nn.ModuleList(
            [
                *(nn.Identity() for _ in range(branches)),
                nn.Sequential(_down(self.channels[branches - 1], self.channels[branches])),
            ]
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        check_images(images, self.in_channels)
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.layer1(self.relu(self.bn2(self.conv2(x))))
        maps = [transition(x) for transition in self.transition1]
        for exchange in self.stage2:
            maps = exchange(maps)
        for transition, stage in ((self.transition2, self.stage3), (self.transition3, self.stage4)):
            maps = [*maps, transition[-1](maps[-1])]
            for exchange in stage:
                maps = exchange(maps)
        return maps

    def stages(self) -> list[list[nn.Module]]:
        stem = [self.conv1, self.bn1, self.conv2, self.bn2, self.layer1]
        return [stem, [self.transition1, self.stage2], [self.transition2, self.stage3], [self.transition3, self.stage4]]


@register_encoder("hrnet_w18_small")
def hrnet_w18_small(in_channels: int = 3, output_stride: int = 32) -> HRNet:
    """Two blocks between exchanges, and fewer exchanges ("HRNet-W18-Small-v2" of the authors, "hr18s" of mmseg)."""
    return HRNet(18, in_channels, output_stride, blocks=2, exchanges=(1, 3, 2))


@register_encoder("hrnet_w18")
def hrnet_w18(in_channels: int = 3, output_stride: int = 32) -> HRNet:
    """18 channels in the finest branch."""
    return HRNet(18, in_channels, output_stride)


@register_encoder("hrnet_w48")
def hrnet_w48(in_channels: int = 3, output_stride: int = 32) -> HRNet:
    """48 channels in the finest branch."""
    return HRNet(48, in_channels, output_stride)

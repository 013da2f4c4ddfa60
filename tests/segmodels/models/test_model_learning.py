"""Every model learns: the smallest variant of each file of models fits eight scenes."""

import numpy as np
import pytest
import torch
from model_variants import SMALL, VARIANTS, build, logits_of, sizes
from torch.nn import functional as F

from segmodels.losses import create_loss
from segmodels.losses.points import PointsLoss
from segmodels.models.registry import model_entry, model_options
from segmodels.outputs import QueryOutput

# Learning rate of the test that a model learns, where 2e-3 is too much: variant -> (rate, reason).
RATES: dict[str, tuple[float, str]] = {
    "refinenet_resnet101": (3e-4, "a deep decoder without normalisation"),
    "segmenter_t_mask": (5e-4, "a transformer alone, without batch norm"),
    "setr_naive": (1e-3, "a transformer"),
    "transunet_r50_b16": (1e-3, "a transformer"),
    **dict.fromkeys(("maskformer_r50", "mask2former_r50"), (5e-4, "a transformer")),
}
# Another body than that of ``build``: variant -> (options, reason).
BODIES: dict[str, tuple[dict[str, object], str]] = {
    "deeplab_v1_large_fov": ({"encoder": "vgg16_bn"}, "thirteen layers without normalisation take a hundred steps"),
}
MOMENTUM = 0.3
"""Of batch norms, at least: with torch's 0.1 most models have learned twenty steps before their running statistics."""
# Trained by a loss of their own on unlabelled images, not by labels: variant -> reason.
NOT_SUPERVISED = {
    name: "the classes it finds have no names" for name in VARIANTS if model_entry(name).card.learner != "supervised"
}


def scenes(size: tuple[int, ...], channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Eight noisy scenes: a bright block (class 1) and a dark ball (class 2) on grey (class 0), each class in its place
    and all of them large.
    """
    random = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*(np.arange(extent) / extent for extent in size), indexing="ij"))
    images, masks = [], []
    for _ in range(8):
        mask = np.zeros(size, np.int64)
        corner = random.uniform(0.05, 0.15, len(size)).reshape(-1, *[1] * len(size))
        mask[((grid > corner) & (grid < corner + 0.45)).all(axis=0)] = 1
        centre = random.uniform(0.65, 0.7, len(size)).reshape(-1, *[1] * len(size))
        mask[((grid - centre) ** 2).sum(axis=0) < 0.25**2] = 2
        image = np.choose(mask, [0.0, 1.5, -1.5]) + random.normal(0, 0.3, (channels, *size))
        images.append(image)
        masks.append(mask)
    return torch.from_numpy(np.stack(images)).float(), torch.from_numpy(np.stack(masks))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [name for name in SMALL if name not in NOT_SUPERVISED])
def test_learns_eight_scenes(name):
    size = sizes(name)[0]
    images, masks = scenes(size, model_options(name).get("in_channels", 3))
    model = build(name, **BODIES.get(name, ({},))[0]).train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = max(module.momentum or 0.0, MOMENTUM)
    steps = 150
    rate = RATES.get(name, (2e-3,))[0]
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=rate, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    halves = list(zip(images.chunk(2), masks.chunk(2), strict=True))  # a step sees four scenes and costs half
    best = 0.0
    for step in range(1, steps + 1):
        shown, truth = halves[(step - 1) % 2]
        prediction = model(shown)
        if isinstance(prediction, QueryOutput):
            layers = [layer for _, layer in prediction.layers((1.0,))]
            terms = create_loss(model_entry(name).card.losses).terms_of_layers(layers, truth)
            loss = sum(term["mask_classification"] for term in terms)
        else:
            loss = F.cross_entropy(prediction.logits, truth) + 0.4 * sum(
                F.cross_entropy(auxiliary, truth) for auxiliary in prediction.auxiliary
            )
        if "points" in getattr(prediction, "extras", ()):
            loss = loss + PointsLoss()(prediction.extras["points"], truth)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        if step % 5 == 0:
            with torch.inference_mode():
                best = max(best, (logits_of(model.eval()(images))[0].argmax(1) == masks).float().mean().item())
            model.train()
            if best >= 0.95:
                return
    pytest.fail(
        f"pixel accuracy on the eight training scenes is {best:.3f} after {steps} steps, expected at least 0.95"
    )

import re
from typing import Any

import pytest
import torch

from segmodels.errors import InputError
from segmodels.models.registry import create_model
from segmodels.models.unet_plus_plus import UNetPlusPlus, prune

WIDTHS = [2, 3, 4, 5, 6]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def small(**options: Any) -> UNetPlusPlus:
    torch.manual_seed(0)
    return UNetPlusPlus(3, 3, WIDTHS, **options)


def count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_binary_form_has_the_papers_parameter_counts() -> None:
    with torch.device("meta"):
        assert count(UNetPlusPlus(1, 1, deep_supervision=False)) == 9_041_601
        assert count(UNetPlusPlus(1, 3, deep_supervision=False)) == 9_042_177
        assert count(UNetPlusPlus(1, 3)) == 9_042_177 + 99


@pytest.mark.parametrize(("level", "expected"), [(1, 101_537), (2, 511_714), (3, 2_205_603), (4, 9_042_276)])
def test_pruned_networks_have_the_papers_parameter_counts(level: int, expected: int) -> None:
    with torch.device("meta"):
        assert count(UNetPlusPlus(1, 3, level=level)) == expected
        assert count(prune(UNetPlusPlus(1, 3), level)) == expected


@pytest.mark.parametrize("size", [(32, 48), (33, 47)])
@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_pruned_network_equals_the_full_ones_head_bit_for_bit(level: int, size: tuple[int, int]) -> None:
    model = small(batch_norm=True)
    images = torch.randn(2, 3, *size)
    model(images)  # moves the running statistics away from their start
    outputs: list[torch.Tensor] = []
    model.eval().inference = "accurate"  # evaluates every head
    model.heads[str(level)].register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    model(images)
    model.inference = "fast"
    assert torch.equal(prune(model, level)(images).logits, outputs[0][..., : size[0], : size[1]])


def test_pruned_network_is_independent_of_the_full_one() -> None:
    model = small().eval()
    images = torch.randn(1, 3, 32, 32)
    pruned = prune(model, 2)
    before = pruned(images).logits
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(pruned(images).logits, before)
    assert pruned.heads["2"].weight.requires_grad


def test_a_network_can_be_pruned_twice() -> None:
    model = small().eval()
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(prune(prune(model, 3), 1)(images).logits, prune(model, 1)(images).logits)


def test_accurate_inference_averages_the_probabilities_of_all_heads() -> None:
    model = small(inference="accurate").train()  # without normalisation or dropout training mode gives the same maps
    images = torch.randn(2, 3, 32, 32)
    training = model(images)
    heads = [*training.auxiliary, training.logits]
    expected = torch.stack([head.softmax(1) for head in heads]).mean(0)
    assert len(heads) == 4
    torch.testing.assert_close(model.eval()(images).logits.softmax(1), expected)
    assert model(images).auxiliary == ()


@pytest.mark.parametrize("node", ["0_0", "1_0", "2_0", "3_0", "0_1", "1_1", "2_1", "0_2", "1_2", "0_3"])
def test_zeroing_a_node_changes_exactly_the_nodes_it_feeds(node: str) -> None:
    """X^{i,j} feeds X^{i,j+1..}, X^{i-1,j+1} and, in the encoder, X^{i+1,0}; a change spreads along these edges
    only.
    """
    model = small().eval()
    images = torch.randn(1, 3, 32, 32)
    maps: dict[str, torch.Tensor] = {}
    for name, module in model.nodes.items():
        module.register_forward_hook(lambda _module, _inputs, output, name=name: maps.__setitem__(name, output))
    model(images)
    before = dict(maps)
    model.nodes[node].register_forward_hook(lambda _module, _inputs, output: torch.zeros_like(output), prepend=True)
    model(images)

    reached, frontier = set(), [tuple(map(int, node.split("_")))]
    while frontier:
        i, j = frontier.pop()
        if f"{i}_{j}" in before and (i, j) not in reached:
            reached.add((i, j))
            frontier += [(i, k) for k in range(j + 1, 5)] + [(i - 1, j + 1)] + ([(i + 1, 0)] if j == 0 else [])
    changed = {tuple(map(int, name.split("_"))) for name in maps if not torch.equal(maps[name], before[name])}
    assert changed == reached


@pytest.mark.parametrize("norm", [None, "batch"])
def test_equals_monai_with_its_weights(norm: str | None) -> None:
    nets = pytest.importorskip("monai.networks.nets")
    theirs = nets.BasicUNetPlusPlus(
        spatial_dims=2,
        in_channels=3,
        out_channels=3,
        features=(4, 4, 8, 16, 32, 4),
        deep_supervision=True,
        act="relu",
        norm=norm,
        bias=norm is None,
    )
    ours = UNetPlusPlus(3, 3, [4, 4, 8, 16, 32], batch_norm=norm is not None)
    renames = [
        (r"^final_conv_0_(\d)", r"heads.\1"),
        (r"^upcat_(\d_\d)\.upsample\.deconv", r"ups.\1"),
        (r"^(?:up)?(?:cat|conv)_(\d_\d)\.(?:convs\.)?conv_(\d)", r"nodes.\1.\2"),
        (r"adn\.N", "norm"),
    ]
    weights = theirs.state_dict()
    for pattern, replacement in renames:
        weights = {re.sub(pattern, replacement, name): tensor for name, tensor in weights.items()}
    ours.load_state_dict(weights)
    images = torch.randn(2, 3, 32, 48)
    expected = theirs(images)
    prediction = ours(images)
    for ours_, theirs_ in zip([*prediction.auxiliary, prediction.logits], expected, strict=True):
        torch.testing.assert_close(ours_, theirs_, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 0}, "level is 0"),
        ({"level": 5}, "level is 5"),
        ({"inference": "slow"}, "slow"),
        ({"inference": "accurate", "deep_supervision": False}, "heads"),
    ],
)
def test_options_that_make_no_network_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        create_model("unet_plus_plus", 2, widths=WIDTHS, **options)


def test_pruning_needs_a_head_at_the_level() -> None:
    with pytest.raises(InputError, match="deep_supervision"):
        prune(small(deep_supervision=False), 2)
    with pytest.raises(InputError, match="expected 1 to 2"):
        prune(prune(small(), 2), 3)

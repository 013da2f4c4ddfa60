"""The interface that every model has."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from segmodels.encoders.base import Encoder
from segmodels.layers.names import AUXILIARY_HEAD, NORM, Names, renamed
from segmodels.outputs import PromptedOutput
from segmodels.prompts import Prompts


class Model(nn.Module):
    """A segmentation model: images to the output that its paper has (``segmodels.outputs``)."""

    def forward(self, images: Tensor, guide: Any = None) -> Any:
        """One output for a batch.

        Args:
            images: float32 ``(B, in_channels, *spatial)``, normalised.
            guide: for models that need more than images: the targets, in training, of models that sample by them; the
                prompts of promptable models. All others ignore it.
        """
        raise NotImplementedError

    published: ClassVar[Names] = ()
    """Names of mmsegmentation's heads as patterns, and ours in their place; applied in turn, see ``translate``."""

    exportable: ClassVar[bool] = True
    """Whether ``torch.export`` can write the model: not one whose outputs have as many rows as it finds objects."""

    exportable_sizes: ClassVar[bool] = True
    """Whether an exported program takes images of any size: not where torch cannot show for every size that maps fit
    each other, nor where a program with free sizes takes minutes to load.
    """

    unread: ClassVar[tuple[str, ...]] = ()
    """Prefixes, after translation, of published tensors that the published code itself does not read."""

    def translate(self, key: str) -> str:
        """Our name of a tensor that published checkpoints of the whole model (of mmsegmentation, of torchvision) know
        under another name.
        """
        encoder = getattr(self, "encoder", None)
        if isinstance(encoder, Encoder) and key.startswith("backbone."):
            return f"encoder.{encoder.translate(key.removeprefix('backbone.'))}"
        return renamed(key, (*AUXILIARY_HEAD, NORM, *self.published))

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Published tensors, already under our names, in the form that the model has them: separate queries, keys and
        values joined, for instance. ``Encoder.adapt`` does so for the encoder's.
        """
        return state

    def classifiers(self) -> list[nn.Module]:
        """The last layers, whose outputs are scores of the ``num_classes`` classes: the main head's first, then those
        of auxiliary heads. Other classes need new ones.
        """
        raise NotImplementedError

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that must not decay beside biases and norms, which never do: position embeddings and the
        like.
        """
        return {
            f"{name}.{key}"
            for name, module in self.named_modules()
            if isinstance(module, Encoder)
            for key in module.no_weight_decay()
        }

    def parameter_groups(self) -> list[dict[str, Any]] | None:
        """Parameters that learn at a rate of their own, ``{"params": [...], "lr_factor": 10.0}`` each; the rest has the
        factor 1. None: all learn alike.
        """
        encoders = (module for module in self.modules() if isinstance(module, Encoder))
        return [group for encoder in encoders for group in encoder.parameter_groups()] or None


class PromptableModel(Model):
    """A model in two parts, so that many prompts share the costly one (SAM, Kirillov 2023, 2304.02643).

    Attributes:
        takes: kinds of prompts that it takes beside clicks: boxes, masks.
        passes: of the decoder for each batch that it is trained on: the first prompt and its corrections (8 in SAM,
            appendix A).
    """

    takes: ClassVar[frozenset[str]] = frozenset()
    passes: int = 9

    def encode(self, images: Tensor) -> Any:
        """What ``decode`` takes of images float32 ``(B, in_channels, H, W)``, normalised."""
        raise NotImplementedError

    def decode(self, embedding: Any, prompts: Prompts) -> PromptedOutput:
        """A mask for each prompted object. Images without prompts give an output of no masks, whose sum still has a
        gradient (0) for every parameter, as distributed training needs it.
        """
        raise NotImplementedError

    def classifiers(self) -> list[nn.Module]:
        """None: a mask is of the object or not."""
        return []

    def forward(self, images: Tensor, guide: Prompts | None = None) -> PromptedOutput | Callable[..., PromptedOutput]:
        """The masks for the prompts; without prompts a function that answers them, often, on images encoded once."""
        embedding = self.encode(images)
        return partial(self.decode, embedding) if guide is None else self.decode(embedding, guide)


def last_layers(*heads: nn.Module | None) -> list[nn.Module]:
    """The last convolution or linear layer of each head, in the order in which the head registers its layers; none for
    a head that is None.
    """
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    return [[m for m in head.modules() if isinstance(m, kinds)][-1] for head in heads if head is not None]

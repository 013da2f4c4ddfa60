"""Losses of the literature: `create_loss({"cross_entropy": 1.0, "dice": 1.0})`, `list_losses()`."""

from segmodels.losses.registry import LossCard, WeightedSum, create_loss, list_losses, loss_entry

__all__ = ["LossCard", "WeightedSum", "create_loss", "list_losses", "loss_entry"]

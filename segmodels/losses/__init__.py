"""Losses of the literature: `create_loss({"cross_entropy": 1.0, "dice": 1.0})`, `list_losses()`."""

from segmodels.losses.registry import LOSSES, LossCard, WeightedSum, create_loss, list_losses, loss_class

__all__ = ["LOSSES", "LossCard", "WeightedSum", "create_loss", "list_losses", "loss_class"]

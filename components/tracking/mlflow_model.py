"""The registered model as MLflow loads it ("model from code"): this file is copied into the model, nothing is
pickled.
"""

from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class SegmentationModel(PythonModel):
    """RGB images of any size -> masks of class ids."""

    def load_context(self, context: Any) -> None:
        import torch

        from segmodels.inference.bundle import load_bundle
        from segmodels.inference.predictor import Predictor

        self.predictor = Predictor(
            load_bundle(context.artifacts["bundle"]), "cuda" if torch.cuda.is_available() else "cpu"
        )

    def predict(self, model_input: np.ndarray) -> np.ndarray:  # type: ignore[override]  # MLflow looks at the names
        """uint8 (N, H, W, 3) -> (N, H, W); one image (H, W, 3) -> (H, W); a list or object array of images -> object
        array of masks (h, w).

        Masks are uint8, int16 above 255 classes. Nested lists of integers 0..255, as they come from JSON, are images
        too.
        """
        if _is_array(model_input, 4):
            return np.stack(self.predictor.masks(_pixels(model_input)))
        if _is_array(model_input, 3):
            return self.predictor.masks([_pixels(model_input)])[0]
        masks = self.predictor.masks([_pixels(image) for image in model_input])
        together = np.empty(len(masks), dtype=object)
        together[:] = masks
        return together


def _is_array(images: Any, dimensions: int) -> bool:
    """Whether these are numbers in an array, or in lists as regular as one, of so many dimensions."""
    try:
        array = np.asarray(images)
    except ValueError:  # images of several sizes
        return False
    return array.ndim == dimensions and array.dtype != object


def _pixels(image: Any) -> np.ndarray:
    """uint8; other integers if they are 0..255. The predictor refuses what is no image."""
    array = np.asarray(image)
    if array.dtype.kind in "iu" and array.size and array.min() >= 0 and array.max() <= 255:
        return array.astype(np.uint8, copy=False)
    return array


set_model(SegmentationModel())

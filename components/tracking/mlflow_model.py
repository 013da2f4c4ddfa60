"""The registered model as MLflow loads it ("model from code"): this file is copied into the model, nothing is
pickled.
"""

from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class SegmentationModel(PythonModel):
    """Images of any size -> what the model's task predicts, with the settings that the model was measured with."""

    def load_context(self, context: Any) -> None:
        from segmodels.inference.bundle import load_bundle
        from segmodels.inference.predictor import Predictor, choose_device

        self.predictor = Predictor(load_bundle(context.artifacts["bundle"]), choose_device())

    def predict(self, model_input: np.ndarray) -> Any:  # type: ignore[override]  # MLflow looks at the names
        """Images of the model's type and channels: many (N, *spatial, C), one (*spatial, C), or a list or object array
        of images of several sizes. Nested lists of numbers, as they come from JSON, are images too.

        A task whose answer is one tensor gives it as an array: of many images (N, *spatial), of one (*spatial), of a
        list an object array of arrays. The answer of other tasks is a dictionary of tensors.
        """
        task, dimensions = self.predictor.task, self.predictor.spatial_dims + 1
        one = _is_array(model_input, dimensions)
        many = _is_array(model_input, dimensions + 1)
        results = self.predictor.results(
            self._pixels(model_input)
            if many
            else [self._pixels(image) for image in ([model_input] if one else model_input)]
        )
        first, *others = task.tensor_specs(self.predictor.spatial_dims)
        if others:
            return task.tensors(results)
        if many:
            return task.tensors(results)[first.name]
        arrays = [task.tensors([result])[first.name][0] for result in results]
        if one:
            return arrays[0]
        together = np.empty(len(arrays), dtype=object)
        together[:] = arrays
        return together

    def _pixels(self, image: Any) -> np.ndarray:
        """The image in the model's type, if the numbers are in its range. The predictor rejects anything but images."""
        array, dtype = np.asarray(image), self.predictor.dtype
        if array.dtype.kind not in "iu" or not array.size:
            return array.astype(dtype) if dtype.kind == "f" and array.dtype.kind == "f" else array
        fits = dtype.kind == "f" or (array.min() >= np.iinfo(dtype).min and array.max() <= np.iinfo(dtype).max)
        return array.astype(dtype, copy=False) if fits else array


def _is_array(images: Any, dimensions: int) -> bool:
    """Whether these are numbers in an array, or in lists as regular as one, of that many dimensions."""
    try:
        array = np.asarray(images)
    except ValueError:  # images of several sizes
        return False
    return array.ndim == dimensions and array.dtype != object


set_model(SegmentationModel())

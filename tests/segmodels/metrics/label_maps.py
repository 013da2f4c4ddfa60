"""Maps of labels, and how scikit-learn counts them."""

import numpy as np
from sklearn.metrics import confusion_matrix


def maps(shape=(2, 37, 41), classes=19, ignored=0.1, types=("uint8", "uint8"), seed=0):
    """Prediction and target: regions with noise in them, and 255 where it is ignored."""
    random = np.random.default_rng(seed)
    regions = np.repeat(random.integers(0, classes, (*shape[:-1], -(-shape[-1] // 11))), 11, axis=-1)[..., : shape[-1]]
    prediction = np.where(random.random(shape) < 0.2, random.integers(0, classes, shape), regions)
    return prediction.astype(types[0]), np.where(random.random(shape) < ignored, 255, regions).astype(types[1])


def reference(prediction, target, classes, ignore_index=255):
    counted = target.reshape(-1) != ignore_index
    return confusion_matrix(target.reshape(-1)[counted], prediction.reshape(-1)[counted], labels=range(classes))

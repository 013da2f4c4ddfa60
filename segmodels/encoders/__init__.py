"""Bodies of segmentation models: ``create_encoder("resnet50")``."""

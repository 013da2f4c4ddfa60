"""Training on several machines with a Kubeflow TrainJob."""

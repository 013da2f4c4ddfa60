"""For clusters only: components, descriptions of outputs, the decision whether to train, the final notification."""

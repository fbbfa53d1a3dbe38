"""Small features, labels and constants for heads, in float64."""

import torch

CLASSES = 3


def data(n=4, d=6, real=9, soft=False, seed=0):
    torch.manual_seed(seed)
    features = torch.randn(n, d, dtype=torch.float64)
    labels = torch.arange(n) % CLASSES
    targets = torch.randn(n, CLASSES, dtype=torch.float64).softmax(1) if soft else labels
    judged = torch.randn(real, d, dtype=torch.float64), torch.arange(real) % CLASSES
    return features, targets, judged


def constants(strength=0.2, temperature=3.0):
    values = {"ridge_log_strength": strength, "ridge_log_temperature": temperature}
    return {name: torch.tensor(v, dtype=torch.float64).log() for name, v in values.items()}

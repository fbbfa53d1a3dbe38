"""Networks that a distilled set was not made for, or that have no name."""

import timm
import torch
import transformers


def hf_resnet():
    """A network of transformers for one channel and three classes."""
    config = transformers.ResNetConfig(
        num_channels=1, embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], num_labels=3
    )
    return transformers.AutoModelForImageClassification.from_config(config)


def saved_network(folder, seed=0):
    """The path of a network of transformers that has been saved with its processor."""
    torch.manual_seed(seed)
    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 6], depths=[1, 1], layer_type="basic"
    )
    transformers.ResNetForImageClassification(config).save_pretrained(folder)
    transformers.ConvNextImageProcessor().save_pretrained(folder)
    return str(folder)


def scaled(seed, mean, std):
    """A network of timm with a normalization of its own."""
    torch.manual_seed(seed)
    network = timm.create_model("test_resnet").eval()
    network.pretrained_cfg = {**network.pretrained_cfg, "mean": (mean,) * 3, "std": (std,) * 3}
    return network

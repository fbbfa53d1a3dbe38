"""What `convert_bn` and `second_order` do to the models of timm and transformers, all of them."""

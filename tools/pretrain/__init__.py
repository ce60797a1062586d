"""The making of the embedded base model from scratch: the verb `pretrain`, which needs a checkout."""

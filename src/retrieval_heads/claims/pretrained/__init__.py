"""Claims C1 to C5 on the pretrained model, by the rules of `book/preregistration_pretrained.md`."""

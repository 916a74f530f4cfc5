"""What makes training on the CPU quicker. Without this room `kit.augment.policy`, which alone imports from it, does the
same in plain torch."""

"""Quicker training on the CPU. Without it `kit.augment.policy`, which alone imports it, does the same in torch."""

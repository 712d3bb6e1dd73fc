"""Datasets: layouts, checks, splits, prepared slices, batches, augmentation, phantoms."""

"""Volumes and masks as arrays with an affine: read, cut into slices, drawn, meshed, written."""

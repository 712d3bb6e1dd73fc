"""Experiment configs: `default.py` holds every field, the others change a few of them."""

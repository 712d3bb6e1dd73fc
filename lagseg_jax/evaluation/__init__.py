"""Masks against references: metrics, statistics, calibration, comparisons, studies."""

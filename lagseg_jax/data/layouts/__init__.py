"""Recognises how the files of a dataset are named: layouts, patterns, tables."""

"""What the command lines of all benchmarks share."""

import argparse


def benchmark_parser(module: str, about: str) -> argparse.ArgumentParser:
    """The parser of `python -m MODULE`; `about` is the module's docstring."""
    return argparse.ArgumentParser(prog=f"python -m {module}", description=about.split("\n\n")[0])


def words(text: str) -> list[str]:
    """The type of an option for several words, with commas between."""
    return [word for word in text.split(",") if word]


def numbers(text: str) -> list[int]:
    """The type of an option for several whole numbers, with commas between."""
    return [int(word) for word in words(text)]

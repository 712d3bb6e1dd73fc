"""Trees of small files, for what only looks at their names."""

from pathlib import Path


def make(root: Path, *names: str) -> Path:
    """One small file per name below `root`, each with its own content; returns `root`."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return root

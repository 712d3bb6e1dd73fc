"""From a volume to a mask, its surface, its numbers and its files."""

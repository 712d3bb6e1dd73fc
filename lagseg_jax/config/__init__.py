"""What a config may say, and the one sentence where it says something else."""

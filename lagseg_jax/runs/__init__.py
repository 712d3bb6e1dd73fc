"""What a run leaves in its workdir: config, checkpoints, metrics."""

"""published DINOv2 file or folder -> folder that `lagseg_jax` loads; run once per encoder."""

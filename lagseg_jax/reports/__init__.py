"""Pages, tables and plots, made from the files of a run; no jax."""

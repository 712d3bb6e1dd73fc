"""Studies: files that name several arms as changes of one config, for `lagseg_jax.study`."""

"""Test floor: two simulated CPU devices, and no silent rank promotion in the project's own code."""

import os

# Before jax is imported anywhere: the 1-device-against-2 tests need a second device.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

"""function of one device's part -> the same on all devices: the one line of `jax.pmap`."""

from collections.abc import Callable, Sequence

import jax

AXIS = "devices"


def mapped(
    function: Callable,
    in_axes: tuple[int | None, ...],
    out_axes: int | None = None,
    donate: tuple[int, ...] = (),
    options: dict | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Callable:
    """Maps over the local devices, or those given; collectives name the axis `AXIS`.

    Args:
        function: of arrays of one device.
        in_axes: by argument; 0: its first axis is divided among the devices, None: all get it.
        out_axes: 0: outputs have a first axis of devices; None: they are the same on all devices.
        donate: arguments whose memory the outputs may take.
        options: of the compiler; with them, one shape of arguments is expected. Several processes
            go without: only `jax.pmap` itself puts their arrays together.
        devices: by default all of this process.
    """
    pmapped = jax.pmap(
        function, AXIS, in_axes=in_axes, out_axes=out_axes, donate_argnums=donate, devices=devices
    )
    if not options or jax.process_count() > 1:
        return pmapped
    compiled = []

    def call(*arguments):
        # pmap has no place for options of the compiler, but what it lowers to has.
        if not compiled:
            compiled.append(pmapped.lower(*arguments).compile(compiler_options=options))
        return compiled[0](*arguments)

    return call

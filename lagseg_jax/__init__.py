"""Left atrium segmentation in LGE-MRI with a frozen DINOv2 encoder (arXiv 2502.06615).

The files in the order in which the data flows:

    mri_file, volume, dataset, split  MRI files -> cases -> training, validation and test patients
    slices, resize, cache, batches    volumes -> square slices -> Grain batches
    augment                           random transformations, on the device
    position_embedding, encoder       slices -> tokens of every DINOv2 block
    weights, frozen                   converted or random weights -> the frozen encoder on devices
    fusion, decoder, model            tokens of all blocks + image -> logits
    losses, train_metrics             logits + mask -> loss, Dice on the device
    train_step, checkpoint, train     one step; Orbax; the training run
    segmenter, predict                volume -> mask, for programs and for files
    metrics, overlay, evaluate        mask + label -> Dice, HD95, ASSD, tables and pictures
    experiment, workdir, logs, main   config -> run; what it writes; the command line
    phantom                           synthetic LGE-like volumes for the demo and the tests
    errors, devices                   one sentence for bad input; arrays on all devices
"""

__all__ = ["load_encoder", "load_segmenter"]


def __getattr__(name: str):
    # Late, so that `import lagseg_jax` and the command line's error messages need no jax.
    if name == "load_encoder":
        from lagseg_jax.weights import load_encoder

        return load_encoder
    if name == "load_segmenter":
        from lagseg_jax.segmenter import load_segmenter

        return load_segmenter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

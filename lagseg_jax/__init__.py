"""Left atrium segmentation in LGE-MRI with a frozen DINOv2 encoder (arXiv 2502.06615).

The files in the order in which the data flows:

    mri_file, volume, dataset, split  MRI files -> cases -> training, validation and test patients
    quality, check, parallel          a whole dataset -> its problems, before any training
    slices, resize, interpolation     volumes -> square slices, and maps of any size
    cache, entries, folders, batches  slices -> disk -> Grain batches
    augment                           random transformations, on the device
    variants, position_embedding, encoder, encoder_form
                                           slices -> tokens of every DINOv2 block
    weights, frozen                   converted or random weights -> the frozen encoder on devices
    features                          slices + frozen encoder -> tokens on disk, if asked for
    adapter                           frozen encoder + low-rank matrices -> adapted, if asked for
    fusion, convolution, decoder, model
                                      tokens of all blocks + image -> logits
    losses, train_metrics             logits + mask -> loss, Dice on the device
    mapped, train_step, checkpoint, checkpoint_record, meter, train
                                      one step; Orbax; what the steps gave; the training run
    inference, slice_search, smoothing, segmenter, components
                                      volume -> mask, for programs; its components
    dicom, inputs, outputs, mesh, mask_statistics, predict
                                      files or DICOM series -> masks, surfaces, pictures, tables
    stablehlo, export                 trained model -> one file that runs without this package
    metrics, overlay, evaluate, compare
                                      mask + label -> Dice, HD95, ASSD, tables and pictures
    calibration, setting, calibrate, calibration_table
                                      probabilities + label -> calibration; threshold to choose
    statistics, manifest              intervals and tests; what made an evaluation
    report, report_page, report_sections, report_data, report_figures, report_fusion, report_style
                                      files of an evaluation -> one HTML page
    command_line, config_check, experiment, workdir, logs, main, info, versions
                                      config -> run; what it writes; the command line
    study, study_table, study_plot    arms of a study -> runs, one table, one plot
    phantom                           synthetic LGE-like volumes for the demo and the tests
    errors, interrupt, devices        one sentence for bad input; signals; arrays on all devices
    malloc                            large buffers are kept by the process
    cluster, processes                which of several processes this is; what each of them does
"""

__all__ = ["load_encoder", "load_segmenter"]


def __getattr__(name: str):
    # Late, so that `import lagseg_jax` and the command line's error messages need no jax.
    if name == "load_encoder":
        from lagseg_jax.model.weights import load_encoder

        return load_encoder
    if name == "load_segmenter":
        from lagseg_jax.inference.segmenter import load_segmenter

        return load_segmenter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

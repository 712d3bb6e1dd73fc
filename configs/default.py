"""Every field of an experiment, once, with its meaning. The other configs are deltas of this one.

Fields can be changed on the command line: `--config.train.epochs=20`. A tuple is written
`--config.data.fractions='(0.7,0.1,0.2)'`. A field that does not exist is an error.
"""

import ml_collections
from ml_collections.config_dict import FieldReference


def several(default: object) -> FieldReference:
    """A field of any type: `config/rules.py` says which values it may have."""
    return FieldReference(default, field_type=object)


def get_config() -> ml_collections.ConfigDict:
    """The recipe of arXiv 2502.06615 and its group's related work, with ViT-B/14."""
    config = ml_collections.ConfigDict()
    config.seed = 0  # of the trained parameters, the data order and the augmentation

    config.data = data = ml_collections.ConfigDict()
    # Fields made by `several` take one value, or several in parentheses.
    data.root = several("")  # dataset folders, or NAME=FOLDER; phantom, phantom-ct are made
    data.images = several("")  # their names, such as "*_image.nii.gz", or a CSV; "": detected
    data.labels = several("")  # the labels of these images, such as "*_mask.nii.gz"
    data.cases = several(())  # only these, by names or patterns such as "P01_*"; (): all
    data.exclude = several(())  # without these, named in the same way
    data.balance = "slices"  # of several datasets: slices (all are alike), datasets (all as often)
    data.label_value = several(0)  # voxel value of the atrium; several are merged; 0: the only one
    data.label_threshold = 0.0  # the atrium is where a label is at least this; 0: by its value
    data.orientation = ""  # of files that do not say it: sides the axes grow to (LPS), sform, qform
    data.plane = ""  # of the slices: axial, coronal, sagittal; "": by the voxels, mostly axial
    data.image_size = 448  # pixels; slices are padded to a square and resized; multiple of 14
    data.clip_percentiles = (0.5, 99.5)  # of a volume's grey values, mapped to 0 and 1
    data.window = ()  # instead of them, the same for all volumes: (low, high) in stored units (HU)
    data.patient = ""  # regular expression with a group, or CSV case,patient; "": one per file
    data.split = ""  # splits.json, or nnU-Net's splits_final.json (with fold); "": drawn
    data.fractions = (0.7, 0.1, 0.2)  # training, validation and test patients
    data.counts = ()  # the same as numbers of patients, e.g. (16, 4, 4); () uses the fractions
    data.fold = -1  # 0-4: nnU-Net's seeded five folds, this one is the test split; -1: not used
    data.split_seed = 0  # which patients go where; apart from `seed`, so seeds share a split
    data.train_patients = 0  # so many of the training patients; 0: all. Fewer lie within more
    data.train_fraction = 1.0  # the same as a fraction of the training patients
    data.allow = ()  # problems that training accepts, e.g. ("empty_label",); see lagseg_jax.check
    data.max_gb = 2.0  # decoded size of one file; what declares more is refused before it is read
    data.cache_dir = ""  # of decoded slices, features; "": ~/.cache/lagseg_jax (or $XDG_CACHE_HOME)
    data.cache_gb = 20.0  # the oldest decoded slices go when their cache grows beyond this
    data.read_threads = 4  # threads that read slices ahead of the training step

    config.encoder = encoder = ml_collections.ConfigDict()
    encoder.variant = "base"  # DINOv2 ViT-*/14: small, base, large, giant; or our tiny one
    encoder.registers = 0  # register tokens: 0 or 4
    encoder.weights = ""  # folder written by weight_conversion.convert; "": random, from seed
    encoder.seed = 0  # of the random weights
    encoder.dtype = "bfloat16"  # float32 or bfloat16: weights and matrix products
    encoder.lora_rank = 0  # of a LoRA adapter on the qkv kernels, trained; 0: the encoder is frozen
    encoder.lora_blocks = 0  # so many of the last blocks are adapted; 0: all

    config.fusion = fusion = ml_collections.ConfigDict()
    fusion.blocks = "all"  # "all", "last", or 0-based block numbers such as "2,5,8,11"
    fusion.learned = True  # False: every chosen block counts the same at every scale

    config.decoder = decoder = ml_collections.ConfigDict()
    decoder.scales = (8, 4, 2, 1)  # after the tokens at 1/14, the decoder works at 1/scale
    decoder.widths = (256, 128, 64, 32, 16)  # channels at 1/14 and at each scale
    decoder.image_injection = True  # False: the decoder sees nothing but the fused tokens
    decoder.image_path = "resized"  # resized: grey image at each scale; pyramid: learned stem
    decoder.dtype = "bfloat16"  # float32, bfloat16, or auto (the faster one here): convolutions

    config.augment = augment = ml_collections.ConfigDict()  # 0 switches a transformation off
    augment.rotation_degrees = 15.0  # uniform in +-
    augment.scale = 0.15  # zoom factor, log-uniform in 1 +-
    augment.translation = 0.05  # uniform in +-, as a fraction of the image
    augment.gamma = 0.3  # exponent exp(uniform +-) of the grey values
    augment.contrast = 0.0  # factor exp(uniform +-) of the grey values
    augment.brightness = 0.1  # additive, uniform in +-
    augment.noise = 0.03  # largest standard deviation of the Gaussian noise
    augment.bias_field = 0.3  # largest log-amplitude of the smooth multiplicative field

    config.train = train = ml_collections.ConfigDict()
    train.init_from = ""  # workdir of another run, to begin with what it has trained; "": afresh
    train.epochs = 50.0  # passes over the training slices; 0.5 is half a pass
    train.steps = 0  # optimiser steps; 0: those that `epochs` make
    train.batch_size = 32  # slices per step, over all devices
    train.loss = "bce"  # bce (with logits), dice (soft, per slice), or bce+dice
    train.learning_rate = 1e-3  # peak; cosine decay to zero after the warm-up
    train.encoder_learning_rate = 1e-4  # the same for the encoder's LoRA adapter, if it has one
    train.warmup_steps = 100  # linear from zero
    train.weight_decay = 0.0  # AdamW's; 0 is Adam
    train.gradient_clip = 1.0  # largest global norm; 0: no clipping
    train.evaluate_every = 0  # steps between validations; 0: once per epoch
    train.checkpoint_every = 0  # steps between checkpoints; 0: with every validation
    train.patience = 10  # validations without a better Dice before training stops; 0: never
    train.max_skipped = 10  # steps in a row without a finite loss and gradient end the training
    train.log_every = 20  # steps between lines of metrics.jsonl
    train.profile_steps = ()  # first and last step of a trace in WORKDIR/profile; (): none
    train.cache_features = False  # tokens of all slices kept on disk; all of `augment` must be 0
    train.feature_cache_gb = 100.0  # the oldest features go when their cache grows beyond this

    config.predict = predict = ml_collections.ConfigDict()
    predict.batch_size = 8  # slices per device at a time, also where features are cached
    predict.stride = 0  # of the slices looked at first for one component; 0: 4 on CPUs, else 1
    predict.threshold = 0.5  # of the probability, after the way back to the input grid
    predict.smooth_mm = 0.0  # Gaussian across the slices on the probability, SD in mm; 0: none
    predict.components = 1  # connected components kept, largest first; 0: all
    return config

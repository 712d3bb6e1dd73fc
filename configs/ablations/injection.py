r"""Image injection: none, the resized image at every scale (the paper), or a learned pyramid.

    python -m lagseg_jax.study --study=configs/ablations/injection.py --config=configs/giant.py \
        --workdir=runs/injection --seeds=3 --config.data.root=DATASET \
        --config.encoder.weights=weights/giant
"""

import ml_collections


def get_study(config: ml_collections.ConfigDict) -> dict:
    """The same arms for every base config."""
    return {
        "title": "Image injection into the decoder",
        "reference": "off",
        "arms": {
            "off": {"decoder.image_injection": False},
            "resized": {"decoder.image_injection": True, "decoder.image_path": "resized"},
            "pyramid": {"decoder.image_injection": True, "decoder.image_path": "pyramid"},
        },
    }

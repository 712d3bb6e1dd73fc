"""python -m benchmarks.feature_cache: it finds a break-even, or says that there is none."""

from benchmarks import feature_cache
from benchmarks.speed.problem import config_of


def test_break_even_of_cached_features(monkeypatch, capsys):
    def small_decoder(case):
        config = config_of(case)
        config.decoder.scales, config.decoder.widths = (4, 2), (16, 16, 8)
        config.decoder.image_path = "resized"
        return config

    monkeypatch.setattr(feature_cache, "config_of", small_decoder)
    monkeypatch.setattr(feature_cache, "tune", lambda: None)  # of this process, it would stay
    flags = ["--variant=tiny", "--size=28", "--dtype=float32", "--batch=2", "--slices=3"]
    assert feature_cache.main([*flags, "--steps=1"]) == 0
    words = capsys.readouterr().out
    assert "tiny, 28 pixels, float32, 0.00 MB per slice" in words
    assert "break-even after" in words or "never pays" in words

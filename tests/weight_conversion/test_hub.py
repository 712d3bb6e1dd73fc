"""Weights by their name on the Hugging Face hub: fetched whole, or one sentence and nothing left.

The hub is a server on the loopback address with a tiny random model.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

import hub_server
from lagseg_jax.model.weights import load_params
from lagseg_jax.runtime.console import exit_status
from weight_conversion import convert as command
from weight_conversion.hub import is_hub_name

pytest.importorskip("huggingface_hub")

from huggingface_hub import constants, file_download

NAME = "facebook/dinov2-tiny"
INDEX, SHARD = "model.safetensors.index.json", "model-00002-of-00002.safetensors"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A running hub that the library, imported already, takes for the real one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with hub_server.serve() as hub:
        use(hub.url, tmp_path, monkeypatch)
        yield hub


def use(url, folder, monkeypatch):
    """What HF_ENDPOINT and HF_HOME set when the library is imported; it waits for nothing."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def convert(*options, name=NAME):
    return exit_status(lambda: command.main([f"--input={name}", "--output=out", *options]))


def refused(capfd, words, *options, name=NAME, status=2):
    """One sentence and no output."""
    assert convert(*options, name=name) == status
    said = capfd.readouterr().err.splitlines()
    (sentence,) = [line for line in said if line.startswith("error: ")]
    assert all(word in sentence for word in words), sentence
    assert "Traceback" not in "".join(said), said
    assert not Path("out").exists()
    return sentence


def test_by_name_in_a_process_of_its_own(tmp_path):
    """With nothing but the library's own environment variables."""
    with hub_server.serve() as hub:
        places = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "*"}
        arguments = ["-m", "weight_conversion.convert", f"--input={NAME}", "--output=out"]
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**os.environ, **places, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    card = json.loads(done.stdout)
    assert card["hub"] == {"model": NAME, "commit": hub_server.COMMIT}
    assert card["variant"] == "tiny" and card["format"] == "Hugging Face"
    assert "Warning" not in done.stderr and list((tmp_path / "home").rglob("model.safetensors"))
    assert {file for _, file in hub.requests} == {"config.json", "model.safetensors"}


def test_one_file_and_shards_give_the_same_encoder_and_are_kept(hub):
    assert convert("--revision=v1") == 0
    whole = json.loads(Path("out/card.json").read_text())
    _, params, _ = load_params("out", "float32")
    expected = hub_server.tiny_tensors()["encoder.layer.3.mlp.fc2.weight"].T
    np.testing.assert_array_equal(params["blocks"]["fc2"]["kernel"][3], expected)
    hub.models["other/sharded"] = hub_server.tiny_files(shards=2)
    assert convert(name="other/sharded") == 0
    sharded = json.loads(Path("out/card.json").read_text())
    assert whole["encoder_sha256"] == sharded["encoder_sha256"]
    assert sharded["source"][0]["file"] == INDEX
    assert not {file for _, file in hub.requests} & {"README.md", "pytorch_model.bin"}
    before = [file for method, file in hub.requests if method == "GET"]
    assert convert() == convert(name="other/sharded") == 0
    assert [file for method, file in hub.requests if method == "GET"] == before


def test_what_is_kept_needs_no_connection(hub, monkeypatch, capfd):
    hub.models["other/sharded"] = hub_server.tiny_files(shards=2)
    assert convert() == convert(name="other/sharded") == 0
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert convert() == convert(name="other/sharded") == 0
    assert hub.requests == []
    capfd.readouterr()
    (Path("out/card.json")).unlink(), Path("out/encoder.safetensors").unlink(), Path("out").rmdir()
    refused(capfd, ["other/model", "HF_HUB_OFFLINE", "cache"], name="other/model")


def test_a_path_of_that_name_wins_and_that_is_said(hub, capfd):
    assert convert() == 0
    folder = Path(NAME)
    folder.parent.mkdir()
    Path("cache/models--facebook--dinov2-tiny/snapshots", hub_server.COMMIT).rename(folder)
    for file in folder.iterdir():  # links into the cache, which lay one folder deeper
        content = Path("cache/models--facebook--dinov2-tiny/blobs", file.readlink().name)
        file.unlink()
        content.rename(file)
    hub.requests.clear()
    capfd.readouterr()
    assert convert() == 0 and hub.requests == []
    assert f"{NAME} is read from here" in capfd.readouterr().err
    assert "hub" not in json.loads(Path("out/card.json").read_text())
    assert convert("--revision=v1") == 2
    assert f"--revision is v1, expected none: {NAME}" in capfd.readouterr().err


def test_which_names_are_models_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("weights").mkdir()
    Path("weights/gone").symlink_to("nowhere")
    assert is_hub_name("facebook/dinov2-with-registers-giant") and is_hub_name("a/b.c_d")
    others = ["dinov2", "a/b/c", "./a", "/a/b", "../a", "~/a", "a/", "https://x/y", "a/b c", ""]
    others += ["weights/gone", "weights/dinov2_vitb14_pretrain.pth", "w/model.safetensors"]
    assert [name for name in others if is_hub_name(name)] == []


def test_a_connection_that_breaks_once_is_resumed(hub, monkeypatch):
    """The server sends half of the file, then, asked for the rest, the rest."""
    content = hub.models[NAME]["model.safetensors"]
    hub.cut["model.safetensors"] = len(content) // 2
    real = file_download.logger.warning

    def mend(*arguments):
        hub.cut.clear()
        real(*arguments)

    monkeypatch.setattr(file_download.logger, "warning", mend)
    assert convert() == 0
    assert hub.requests.count(("GET", "model.safetensors")) == 2


def test_truncated(hub, capfd):
    hub.cut["model.safetensors"] = 1000
    refused(capfd, [NAME, "was not fetched whole from http://127.0.0.1", "start the same"])
    assert not list(Path("cache").rglob("snapshots/*/model.safetensors"))
    hub.cut.clear()
    assert convert() == 0


def test_another_size_than_announced(hub, capfd):
    hub.sent["model.safetensors"] = hub.models[NAME]["model.safetensors"][:-4]
    refused(capfd, [NAME, "was not fetched whole", "should be of size"])
    assert not list(Path("cache").rglob("snapshots/*/model.safetensors"))


def test_another_content_of_the_same_size(hub, capfd):
    content = bytearray(hub.models[NAME]["model.safetensors"])
    content[-9] ^= 1
    hub.sent["model.safetensors"] = bytes(content)
    sentence = refused(capfd, ["(model.safetensors) is damaged: SHA-256 ", "delete it"])
    hub.sent.clear()
    Path(sentence.removeprefix("error: ").partition(" (")[0]).unlink()
    assert convert() == 0


def test_files_that_the_library_keeps_in_a_store_of_its_own(hub):
    """What is linked to is then a link itself, to a file that another hash names."""
    assert convert() == 0
    (kept,) = [p for p in Path("cache").rglob("blobs/*") if p.stat().st_size > 10_000]
    store = Path("cache/blobs/ab")
    store.mkdir(parents=True)
    kept.rename(store / f"ab{'0' * 62}")
    kept.symlink_to((store / f"ab{'0' * 62}").resolve())
    assert convert() == 0


def test_a_disk_that_is_too_small_is_told_before(hub, monkeypatch, capfd):
    small = shutil.disk_usage(".")._replace(free=100_000)
    monkeypatch.setattr(file_download.shutil, "disk_usage", lambda path: small)
    refused(capfd, ["cache", f"no space left for {NAME}", "HF_HOME"], status=1)
    assert ("GET", "model.safetensors") not in hub.requests


def test_missing_shard_and_no_weights(hub, capfd):
    hub.models["other/sharded"] = files = hub_server.tiny_files(shards=2)
    del files[SHARD]
    refused(capfd, ["other/sharded", f"lacks the file {SHARD}"], name="other/sharded")
    hub.models["other/none"] = {"config.json": files["config.json"]}
    refused(capfd, ["other/none", "lacks the file model.safetensors"], name="other/none")
    hub.models["other/text"] = {"README.md": b""}
    refused(capfd, ["other/text", "lacks the file config.json"], name="other/text")
    outside = {"weight_map": {"embeddings.cls_token": "../../secret.safetensors"}}
    hub.models["other/outside"] = files | {INDEX: json.dumps(outside).encode()}
    refused(capfd, [INDEX, "../../secret", "outside its own folder"], name="other/outside")


def test_no_such_model_revision_or_permission(hub, capfd):
    expected = ["neither a file nor a folder here", "status 401", "facebook/dinov2-base"]
    refused(capfd, ["facebook/dinov2-gaint", *expected], name="facebook/dinov2-gaint")
    hub.refusals["other/gone"] = 404, "RepoNotFound"
    refused(capfd, ["other/gone", "status 404"], name="other/gone")
    hub.refusals["other/gated"] = 403, "GatedRepo"
    refused(capfd, ["other/gated", "accepted its terms", "HF_TOKEN"], name="other/gated")
    refused(capfd, [NAME, "no revision v9", "a branch, a tag or a commit"], "--revision=v9")
    refused(capfd, ["a/b..c", "nor a name that"], name="a/b..c")  # by rules of the library


@pytest.mark.parametrize("status", [403, 500, 503])
def test_a_hub_that_answers_with_errors(hub, capfd, status):
    hub.refusals[NAME] = status, ""
    refused(capfd, [NAME, hub.url, str(status)])


def test_no_route(hub, tmp_path, monkeypatch, capfd):
    use("http://127.0.0.1:9", tmp_path, monkeypatch)
    refused(capfd, [NAME, "http://127.0.0.1:9 does not answer", "try again later"])


def test_without_the_library_the_extra_is_named(hub, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused(capfd, [NAME, "needs huggingface_hub", "pip install '", "[hub]'"])
    assert hub.requests == []


def test_a_model_that_is_no_dinov2(hub, capfd):
    hub.models["other/bert"] = {
        "config.json": b"{}",
        "model.safetensors": save({"bert.w": np.zeros(3, np.float32)}),
    }
    refused(capfd, ["other/bert is no DINOv2 encoder"], name="other/bert")


def test_only_a_name_of_the_hub_touches_the_network(hub, capfd):
    refused(capfd, ["neither a file nor a folder"], name="weights/base.pth")
    assert hub.requests == []

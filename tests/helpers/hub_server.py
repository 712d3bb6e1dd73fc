"""A local stand-in for the Hugging Face hub, on the loopback address, with a tiny model on it."""

import contextlib
import hashlib
import json
from http.server import BaseHTTPRequestHandler

import numpy as np
from safetensors.numpy import save

from loopback import serving

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WIDTH, DEPTH = 64, 4  # of our tiny encoder


def tiny_tensors(seed=0):
    """Random tensors under the names of Hugging Face, without registers."""
    layer = {f"norm{n}.{kind}": (WIDTH,) for n in (1, 2) for kind in ("weight", "bias")}
    layer |= {f"layer_scale{n}.lambda1": (WIDTH,) for n in (1, 2)}
    products = {f"attention.attention.{part}": (WIDTH, WIDTH) for part in ("query", "key", "value")}
    products |= {"attention.output.dense": (WIDTH, WIDTH)}
    products |= {"mlp.fc1": (4 * WIDTH, WIDTH), "mlp.fc2": (WIDTH, 4 * WIDTH)}
    for name, shape in products.items():
        layer |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    shapes = {
        "embeddings.cls_token": (1, 1, WIDTH),
        "embeddings.mask_token": (1, WIDTH),
        "embeddings.position_embeddings": (1, 1 + 37**2, WIDTH),
        "embeddings.patch_embeddings.projection.weight": (WIDTH, 3, 14, 14),
        "embeddings.patch_embeddings.projection.bias": (WIDTH,),
        "layernorm.weight": (WIDTH,),
        "layernorm.bias": (WIDTH,),
    }
    for block in range(DEPTH):
        shapes |= {f"encoder.layer.{block}.{name}": shape for name, shape in layer.items()}
    draw = np.random.default_rng(seed).standard_normal
    return {name: 0.1 * draw(shape, np.float32) for name, shape in shapes.items()}


def tiny_files(shards=1):
    """config.json and the weights, in one file or in shards with their index: name -> bytes."""
    config = {"model_type": "dinov2", "hidden_size": WIDTH, "num_attention_heads": 2}
    files = {"config.json": json.dumps(config).encode(), "README.md": b"not to be fetched"}
    tensors = tiny_tensors()
    if shards == 1:
        return files | {"model.safetensors": save(tensors)}
    names, shard_of = sorted(tensors), {}
    for number in range(shards):
        held = names[number::shards]
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        files[file] = save({name: tensors[name] for name in held})
        shard_of |= dict.fromkeys(held, file)
    return files | {"model.safetensors.index.json": json.dumps({"weight_map": shard_of}).encode()}


class Hub:
    """What the server has and does; a test changes it.

    Attributes:
        models: name -> file -> bytes.
        refusals: model -> status, and error code in the header, of every answer about it.
        sent: file -> bytes sent instead of those announced.
        cut: file -> the byte at which connections end.
        requests: (method, file) of all requests about a model.
    """

    def __init__(self):
        self.models = {"facebook/dinov2-tiny": tiny_files()}
        self.refusals: dict = {}
        self.sent: dict = {}
        self.cut: dict = {}
        self.requests: list = []
        self.url = ""


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def log_message(self, *_):
        pass

    def refuse(self, status, code=""):
        self.send_response(status)
        self.send_header("X-Repo-Commit", COMMIT)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def answer(self, with_body):
        hub, parts = self.hub, self.path.strip("/").split("/", 4)
        if parts[2:3] != ["resolve"]:  # of no model
            return self.refuse(404)
        name, revision, file = "/".join(parts[:2]), *parts[3:]
        hub.requests.append((self.command, file))
        if name in hub.refusals:
            return self.refuse(*hub.refusals[name])
        if name not in hub.models:
            return self.refuse(401)  # as the hub answers those without a token
        if revision not in ("main", "v1", COMMIT):
            return self.refuse(404, "RevisionNotFound")
        if file not in hub.models[name]:
            return self.refuse(404, "EntryNotFound")
        content = hub.models[name][file]
        etag = hashlib.sha256(content).hexdigest()
        content = hub.sent.get(file, content) if with_body else content
        start = int(self.headers.get("Range", "bytes=0-")[6:].partition("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{etag}"')
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if with_body:
            self.wfile.write(content[start : hub.cut.get(file, len(content))])
            if file in hub.cut:
                self.wfile.flush()
                self.close_connection = True


@contextlib.contextmanager
def serve():
    """Yields a running `Hub`; its `url` is what HF_ENDPOINT takes."""
    hub = Hub()
    with serving(_Handler, hub=hub) as hub.url:
        yield hub

"""A model hub on loopback: random weights of small shapes, in the layout of the hub's own files.

Its tokenizer is a byte-level BPE that is trained here. Names, places and rare words are several tokens,
a word has its leading space, an emoji is bytes, and the embedding has rows that no token uses.
"""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch
from toys import toy, trained

LOGIN = b"<!DOCTYPE html><title>Welcome to our hotel</title><form>Room number <input></form>"
ROWS = 96  # of the embedding, beyond the tokenizer's tokens


class Loopback(BaseHTTPRequestHandler):
    """Hands out the files of `folders`, by repository; behind a captive portal, everything is its login
    page."""

    def do_GET(self, body: bool = True) -> None:
        hub = self.server
        hub.asked.append(self.path)
        folder = next((f for name, f in hub.folders.items() if f"/{name}/" in self.path), None)
        contents = {} if folder is None else {p.name: p for p in sorted(folder.iterdir())}
        listing, name = "/tree/" in self.path, self.path.rpartition("/")[2]
        revision = self.path.split("/tree/" if listing else "/resolve/")[-1].split("/")[0].split("?")[0]
        if hub.is_portal:
            answer, kind = LOGIN, "text/html"
        elif listing:
            sizes = {file: (len(p.read_bytes()), sha1(p)) for file, p in contents.items()}
            listed = [
                {"type": "file", "path": file, "size": size, "oid": oid}
                for file, (size, oid) in sizes.items()
            ]
            answer, kind = json.dumps(listed).encode(), "application/json"
        elif "/revision/" in self.path:  # a branch: at which commit?
            answer, kind = json.dumps({"id": "a model", "sha": "a" * 40}).encode(), "application/json"
        else:
            answer = contents[name].read_bytes() if name in contents else b""
            kind = "application/octet-stream"
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(answer)))
        if not hub.is_portal:
            self.send_header("ETag", f'"{hashlib.sha1(answer).hexdigest()}"')
            self.send_header("X-Repo-Commit", revision)
        self.end_headers()
        if body:
            self.wfile.write(answer)

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def log_message(self, *args) -> None:
        pass


def sha1(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


@contextmanager
def serving(folders: Mapping[str, Path]) -> Iterator[ThreadingHTTPServer]:
    """A hub with these repositories, name -> folder. `endpoint`: its address. `asked`: every path that
    was asked for. `is_portal`: whether it is behind a login page."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Loopback) as server:
        server.folders, server.asked, server.is_portal = dict(folders), [], False
        server.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def write(folder: Path, model_type: str, seed: int = 0, pickled: bool = False) -> Path:
    """A small model of the architecture with random weights, and its tokenizer. pickled: its weights are
    in PyTorch's older format."""
    tokenizer = trained("bytes")
    model = toy(model_type, seed, vocab_size=len(tokenizer) + ROWS, num_hidden_layers=4)
    model.hf.float().save_pretrained(folder)
    if pickled:
        (folder / "model.safetensors").unlink()
        torch.save(model.hf.state_dict(), folder / "pytorch_model.bin")
    tokenizer.save_pretrained(folder)
    return folder


def point_to(endpoint: str, cache: Path, patch) -> None:
    """Makes huggingface_hub of this process ask the hub at `endpoint`, and keep its files in `cache`."""
    from huggingface_hub import constants

    for name, value in {
        "ENDPOINT": endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
    }.items():
        patch.setattr(constants, name, value)

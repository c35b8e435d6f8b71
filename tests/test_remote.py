"""Traces on a server: the same numbers as here, no weight in the request, and no weight downloaded.

nnsight's local simulation serialises a trace, hides all modules that a server lacks, restores it and runs
it. What is sent to a server is caught by one on loopback.
"""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import hub
import pytest
import torch
from nnsight.intervention.backends.remote import RemoteError

from tft_utils import models, remote
from tft_utils.files import ORGANISMS, LoadError

PROMPT = "The capital of Zabar is"
SOURCE = models.Source("owner/name", "main")


def patched(model, **options):
    """What every verb of a trace gives, before and after a change."""
    with model.trace(PROMPT, **options):
        early = model.residual(1).save()
        model.set_residual(2, model.residual(2) * 0.5)
        mixed = model.mixer_output(2).save()
        units = model.unit_outputs(3).save()
        logits = model.logits.save()
    return early, mixed, units, logits


@pytest.mark.parametrize("name", [*models.PAIR, "mamba2", "rwkv"])
@torch.no_grad()
def test_a_trace_that_was_sent_gives_the_same_numbers(name, tmp_path, monkeypatch):
    model = models.load(name)
    for part in (model.hf, model.tokenizer):
        part.save_pretrained(tmp_path)
    there = remote.open_folder(tmp_path, SOURCE)
    # An installed package can be found without a path: a server finds none.
    finders = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
    monkeypatch.setattr(sys, "meta_path", finders)
    for sent, here in zip(patched(there, remote="local"), patched(model), strict=True):
        torch.testing.assert_close(sent, here, rtol=1e-4, atol=1e-4)  # a server has no scan of ours


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A hub with one model, and nothing in the cache."""
    source = models.SCALES["small"]["transformer"]
    folder = hub.write(tmp_path / "model", "gpt_neox")
    with hub.serving({source.repository: folder}) as server:
        hub.point_to(server.endpoint, tmp_path / "cache", monkeypatch)
        yield server


class Server(BaseHTTPRequestHandler):
    """Keeps what it is sent, and refuses it."""

    def do_POST(self) -> None:
        self.server.sent.append(self.rfile.read(int(self.headers["Content-Length"])))
        answer = json.dumps({"detail": "not served today"}).encode()
        self.send_response(503)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args) -> None:
        pass


def test_no_weight_comes_or_goes(published):
    model = remote.served("transformer", "small")
    assert not [path for path in published.asked if "safetensors" in path or ".bin" in path]
    assert {p.device.type for p in model._module.parameters()} == {"meta"}
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        server.sent = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with pytest.raises(RemoteError, match="not served today"):
                patched(model, remote=f"http://127.0.0.1:{server.server_port}", blocking=False)
        finally:
            server.shutdown()
            thread.join()
    (request,) = server.sent
    wanted = {"repo_id": "EleutherAI/pythia-160m", "revision": "main", "task": "text-generation"}
    assert model.to_model_key() == f"nnsight.modeling.transformers.TransformersModel:{json.dumps(wanted)}"
    assert json.dumps(model.to_model_key())[1:-1].encode() in request
    assert len(request) < 10**5


def test_a_model_of_several_kinds_of_block_is_refused():
    with pytest.raises(LoadError, match="expected blocks of one kind and logits without a bound"):
        remote.open_folder(ORGANISMS / "griffin-0", SOURCE)


def test_a_repository_that_is_not_there_is_refused(published):
    with pytest.raises(LoadError, match="expected a config of gpt_neox, .*no--such"):
        remote.served("no/such")
    with pytest.raises(LoadError, match="expected a scale, found 'smal'; use one of 'tiny', 'small'"):
        remote.served("transformer", "smal")

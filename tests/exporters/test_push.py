"""Uploading a bundle, to a stand-in for the hub on this machine that keeps what it is sent."""

from __future__ import annotations

import base64
import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sa3_engines import bundle
from sa3_engines.errors import BundleError, InvalidRequest, OutputError
from sa3_engines.models import HERE
from sa3_exporters import push


@dataclass
class Hub:
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    created: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    messages: list[str] = field(default_factory=list[str])
    refuses: int = 0
    url: str = ""

    def answer(self, path: str, body: bytes) -> tuple[int, Any]:
        if self.refuses:
            return self.refuses, {"error": "no"}
        if path == "/api/repos/create":
            self.created.append(json.loads(body))
            return 200, {"url": f"{self.url}/me/small", "name": "me/small", "id": "0"}
        if "/preupload/" in path:
            asked = json.loads(body)["files"]
            return 200, {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]}
        if "/commit/" in path:
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "header":
                    self.messages.append(line["value"]["summary"])
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return 200, {"commitUrl": f"{self.url}/me/small/commit/1", "commitOid": "1" * 40, "success": True}
        return 200, {"id": "me/small", "sha": "0" * 40, "siblings": [], "private": False, "tags": []}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    served = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            status, answer = served.answer(self.path, self.rfile.read(length))
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        served.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", served.url)
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setenv("HF_TOKEN", "hf_of_a_stand_in")
        yield served
        server.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    out = tmp_path / "nano"
    shutil.copytree(HERE / "nano", out)
    (out / "notes.txt").write_text("mine")
    return out


def test_a_bundle_goes_up_whole(hub: Hub, folder: Path):
    told: list[str] = []
    address = push.push(folder, "me/small", private=True, tell=told.append)
    found = bundle.load(folder)
    assert address.endswith("/me/small/commit/1")
    assert set(hub.files) == {*found.files, "manifest.json"}  # and not what else lies there
    assert all(hub.files[name] == (folder / name).read_bytes() for name in hub.files)
    assert "private" in json.dumps(hub.created[0]) and found.id in hub.messages[0]
    assert f"{len(found.files) + 1} files" in told[0]


def test_what_cannot_be_uploaded_says_why(hub: Hub, folder: Path):
    def tell(_: str) -> None:
        pass

    with pytest.raises(InvalidRequest, match="'small' is not a repository's name; write OWNER/NAME"):
        push.push(folder, "small", private=False, tell=tell)
    hub.refuses = 403
    with pytest.raises(OutputError, match=r"cannot upload .*; the bundle is complete where it is"):
        push.push(folder, "me/small", private=False, tell=tell)
    (folder / "step.onnx").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"step\.onnx is 1 bytes long"):
        push.push(folder, "me/small", private=False, tell=tell)
    assert not hub.files

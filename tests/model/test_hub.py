"""Models from the hub, as far as that goes without it: a stand-in on this machine serves the miniature."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from sa3_engines import bundle, models

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SMALL = "stabilityai/stable-audio-3-small-music"
TEXT = "t5gemma-b-b-ul2"


@dataclass
class Hub:
    """Repositories by name, each a map from path to file; what is asked for is noted."""

    repos: dict[str, dict[str, Path]] = field(default_factory=dict[str, dict[str, Path]])
    gated: set[str] = field(default_factory=set[str])
    broken: int = 0  # what it answers to everything
    asked: list[str] = field(default_factory=list[str])
    url: str = ""

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        self.asked.append(path)
        if self.broken:
            return self.broken, {}, b"{}"
        parts = path.strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        repo = "/".join(parts[2:4] if api else parts[:2])
        files = self.repos.get(repo)
        if files is None:
            return 401, {"X-Error-Code": "RepoNotFound"}, b"{}"
        if api:
            return self._listing(repo, files, parts[4:])
        if repo in self.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b"{}"
        name = "/".join(parts[4:])
        if name not in files:
            return 404, {"X-Error-Code": "EntryNotFound"}, b"{}"
        data = files[name].read_bytes()
        return 200, {"ETag": f'"{_sha(data)}"', "X-Repo-Commit": COMMIT}, data

    def _listing(self, repo: str, files: dict[str, Path], rest: list[str]) -> tuple[int, dict[str, str], bytes]:
        if len(rest) > 1 and rest[1] not in ("main", COMMIT):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        tree = [
            {"type": "file", "path": name, "size": file.stat().st_size, "oid": _sha(file.read_bytes())}
            for name, file in files.items()
        ]
        siblings = [{"rfilename": name} for name in files]
        info = {"id": repo, "modelId": repo, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings}
        return 200, {}, json.dumps(tree if rest[:1] == ["tree"] else info).encode()


def _sha(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


@pytest.fixture
def hub() -> Iterator[Hub]:
    served = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, headers, body = served.answer(unquote(urlsplit(self.path).path))
            self.send_response(status)
            for name, value in {
                **headers,
                "Content-Length": str(len(body)),
                "Content-Type": "application/json",
            }.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        served.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield served
        server.shutdown()
        thread.join()


LOCATE = """
import json, sys
from sa3_engines import models
from sa3_engines.errors import Sa3Error
try:
    found = models.locate(sys.argv[1], revision=sys.argv[2] or None)
except Sa3Error as e:
    print(json.dumps({"error": f"{type(e).__name__}: {e}"}))
else:
    print(json.dumps({
        "name": found.name, "folder": str(found.folder), "repo": found.repo, "revision": found.revision,
        "full": found.config.dit is not None, "weights": found.has_weights, "tokenizer": str(found.tokenizer),
    }))
"""
Locate = Callable[..., dict[str, Any]]


@pytest.fixture
def locate(hub: Hub, tmp_path: Path) -> Locate:
    """In a process of its own, because the hub's client reads its settings when it is imported."""

    def locate(name: str, revision: str = "", *, offline: bool = False) -> dict[str, Any]:
        settings = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": str(int(offline))}
        unset = {"HF_HUB_CACHE", "HF_TOKEN", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"}
        kept = {name: value for name, value in os.environ.items() if name.upper() not in unset}
        done = subprocess.run(
            [sys.executable, "-c", LOCATE, name, revision],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env=kept | settings | {"HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"},
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return locate


def published(folder: Path, prefix: str = "") -> dict[str, Path]:
    names = ("model_config.json", "model.safetensors", *(f"{TEXT}/{file.name}" for file in (folder / TEXT).iterdir()))
    return {prefix + name: folder / name for name in names}


def test_a_released_model_is_downloaded_once(hub: Hub, locate: Locate, folder: Path):
    hub.repos[SMALL] = published(folder) | {"svd_bases.pt": folder / "model.safetensors"}
    found = locate("small")
    assert found["name"] == "small-music"
    assert (found["repo"], found["revision"]) == (SMALL, COMMIT)
    assert found["full"]
    assert found["weights"]
    assert Path(found["tokenizer"]).is_file()
    downloaded = {str(p.relative_to(found["folder"])) for p in Path(found["folder"]).rglob("*") if p.is_file()}
    assert downloaded == set(published(folder))  # and nothing that is not needed
    files = [path for path in hub.asked if "/resolve/" in path]
    assert locate("small-music") == found
    assert [path for path in hub.asked if "/resolve/" in path] == files
    asked = len(hub.asked)
    assert locate("small-music", offline=True) == found
    assert len(hub.asked) == asked
    hub.broken = 500
    assert locate("small-music") == found  # the hub is down, and the files are here


def test_a_mirror_with_one_variant_per_folder(hub: Hub, locate: Locate, folder: Path):
    files = published(folder)
    hub.repos["someone/mirror"] = {
        **{f"small-sfx/{name}": path for name, path in files.items() if TEXT not in name},
        **{f"medium/{name}": path for name, path in files.items() if TEXT not in name},
        **{name: path for name, path in files.items() if TEXT in name},
    }
    found = locate("someone/mirror/small-sfx")
    assert found["folder"].endswith(f"{COMMIT}/small-sfx")
    assert found["repo"] == "someone/mirror"
    assert found["weights"]
    assert Path(found["tokenizer"]).is_file()
    assert not any("/medium/" in path for path in hub.asked if "/resolve/" in path)
    hub.repos["someone/plain"] = published(folder)
    assert locate("someone/plain")["full"]


def test_a_bundle_comes_whole_and_alone(hub: Hub, locate: Locate, folder: Path, tmp_path: Path):
    """With its licence, which belongs to it, and without what else the repository holds."""
    made = tmp_path / "made"
    shutil.copytree(models.HERE / "nano", made)
    (made / "LICENSE.md").write_text("terms")
    manifest = json.loads((made / "manifest.json").read_text())
    manifest["files"] |= {"LICENSE.md": vars(bundle.describe(made, ["LICENSE.md"])["LICENSE.md"])}
    (made / "manifest.json").write_text(json.dumps(manifest))
    files = {path.relative_to(made).as_posix(): path for path in made.rglob("*") if path.is_file()}
    hub.repos["someone/bundle"] = {**files, "other/step.onnx": made / "step.onnx"}
    found = Path(locate("someone/bundle")["folder"])
    assert {path.relative_to(found).as_posix() for path in found.rglob("*") if path.is_file()} == set(files)
    bundle.read(found, deep=True)


def test_a_licence_comes_with_its_weights(hub: Hub, locate: Locate, folder: Path):
    hub.repos[SMALL] = published(folder) | {"LICENSE.md": folder / "model_config.json"}
    assert (Path(locate("small-music")["folder"]) / "LICENSE.md").is_file()


def test_a_cached_model_lends_its_autoencoder(hub: Hub, locate: Locate, folder: Path):
    hub.repos[SMALL] = published(folder)
    whole = locate("small-music")
    asked = len(hub.asked)
    found = locate("same-s")
    assert len(hub.asked) == asked
    assert (found["name"], found["folder"], found["repo"]) == ("same-s", whole["folder"], SMALL)
    assert not found["full"]
    assert locate("same-l")["error"].startswith("ModelNotFound: stabilityai/SAME-L does not exist")


def test_offline_with_nothing_cached(hub: Hub, locate: Locate):
    said = locate("medium", offline=True)["error"]
    assert said.startswith("ModelNotFound: stabilityai/stable-audio-3-medium is not in the local cache")
    assert "local folder" in said
    assert not hub.asked


def test_a_gated_repository(hub: Hub, locate: Locate, folder: Path):
    hub.repos[SMALL] = published(folder)
    hub.gated.add(SMALL)
    said = locate("small-music")["error"]
    assert said.startswith(f"ModelNotFound: {SMALL} is gated: open https://huggingface.co/{SMALL}")
    assert "hf auth login" in said


@pytest.mark.parametrize(
    ("name", "revision", "said"),
    [
        ("someone/nothing", "", "someone/nothing does not exist on the hub, or it is private"),
        ("someone/mirror", "v9", "someone/mirror has no revision 'v9'"),
        ("someone/mirror", "", "holds no model_config.json"),
        ("someone/mirror/small", "", "holds no model_config.json"),
        ("some--one/x", "", "is not a name a repository can have"),
        ("someone/..", "", "is not a name a repository can have"),
    ],
)
def test_what_is_not_there(hub: Hub, locate: Locate, folder: Path, name: str, revision: str, said: str):
    hub.repos["someone/mirror"] = {"README.md": folder / "model_config.json"}
    found = locate(name, revision)["error"]
    assert found.startswith("ModelNotFound: ")
    assert said in found


@pytest.mark.parametrize(
    ("status", "said"),
    [(403, "this account may not read it"), (404, "there is no such"), (500, "try again later"), (503, "try again")],
)
def test_a_hub_that_answers_with_an_error(hub: Hub, locate: Locate, status: int, said: str):
    hub.broken = status
    found = locate("medium")["error"]
    assert f"stable-audio-3-medium cannot be had: the hub answered {status}; {said}" in found and "\n" not in found


def test_a_hub_that_is_not_there(hub: Hub, locate: Locate):
    hub.url = "http://127.0.0.1:9"
    assert "is not in the local cache and the hub cannot be reached" in locate("medium")["error"]


def test_a_name_that_may_have_been_a_folders(hub: Hub, locate: Locate, tmp_path: Path):
    said = locate("x/foo")["error"]
    assert said.startswith("ModelNotFound: there is no folder x/foo, and x/foo does not exist on the hub")
    assert "there is no folder" not in locate("medium")["error"]
    assert (
        locate("~nobody-here/x")["error"]
        == "ModelNotFound: no model '~nobody-here/x': there is no such user's home folder"
    )

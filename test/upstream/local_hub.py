"""A pytest plug-in for llama.cpp's server tests: a hub on this machine, from which their servers load what they would download.

What it has are models of random weights under the names that the tests' presets give (write_models.py), so the tests and their presets stay as they are.
LLAMA_DUO_HUB is its folder: OWNER/REPOSITORY/FILE.

LLAMA_DUO_SELECT names a file with the tests to run, one a line; without it all are run. The outcomes go to the file LLAMA_DUO_OUTCOMES, as JSON:
{"test": "passed"}.
"""

import hashlib
import json
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import utils
import wget

COMMIT = "a" * 40


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's protocol as llama.cpp's downloader speaks."""

    protocol_version = "HTTP/1.1"
    folder = Path(os.environ["LLAMA_DUO_HUB"])

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(refs|tree/.*)", path):
            repository, what = match.groups()
            if (self.folder / repository).is_dir():
                return self.send_json({"branches": [{"name": "main", "targetCommit": COMMIT}]} if what == "refs" else self.list_files(repository))
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            file = self.folder / match[1] / match[2]
            if file.is_file():
                return self.send_file(file)
        self.send_answer(404, b'{"error": "not here"}')

    def list_files(self, repository: str) -> list[dict]:
        root = self.folder / repository
        entries = []
        for file in sorted(path for path in root.rglob("*") if path.is_file()):
            size, name = file.stat().st_size, str(file.relative_to(root))
            oid = hashlib.sha256(f"{repository}/{name}".encode()).hexdigest()
            entries.append({"type": "file", "path": name, "size": size, "oid": oid[:40], "lfs": {"oid": oid, "size": size}})
        return entries

    def send_json(self, value: object) -> None:
        self.send_answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send_file(self, file: Path) -> None:
        content = file.read_bytes()
        headers = {"Accept-Ranges": "bytes", "ETag": f'"{len(content)}"'}
        if match := re.match(r"bytes=(\d+)-", self.headers.get("Range", "")):
            first = int(match[1])
            return self.send_answer(206, content[first:], headers | {"Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"})
        self.send_answer(200, content, headers)

    def send_answer(self, status: int, content: bytes, headers: dict[str, str] = {}) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


outcomes: dict[str, str] = {}


def pytest_configure(config: pytest.Config) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = os.environ["MODEL_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}/"
    # what the tests download by themselves
    download = wget.download
    wget.download = lambda url, *args, **more: download(url.replace("https://huggingface.co/", endpoint), *args, **more)

    # which loads the presets' models for the first time, those too that mixed heads are refused for
    load_all = utils.ServerPreset.load_all

    def load_all_without_duo() -> None:
        duo = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("LLAMA_ARG_DUO_")}
        load_all()
        os.environ.update(duo)

    utils.ServerPreset.load_all = staticmethod(load_all_without_duo)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "LLAMA_DUO_SELECT" not in os.environ:
        return
    chosen = set(Path(os.environ["LLAMA_DUO_SELECT"]).read_text(encoding="utf-8").splitlines())
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in chosen])
    items[:] = [item for item in items if item.nodeid in chosen]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    # passed: set-up, the test itself and tear-down have. A later try counts.
    if report.when == "setup" or report.outcome != "passed":
        outcomes[report.nodeid] = report.outcome


def pytest_sessionfinish(session: pytest.Session) -> None:
    if "LLAMA_DUO_OUTCOMES" in os.environ:
        Path(os.environ["LLAMA_DUO_OUTCOMES"]).write_text(json.dumps(outcomes), encoding="utf-8")

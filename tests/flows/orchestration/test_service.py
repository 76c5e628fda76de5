"""Prefect that cannot be used is one clear error before anything is written."""

import socket
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from flows.orchestration.service import _require_answer, _require_home
from ood_core.errors import ServiceLost


def test_a_home_that_cannot_be_written_is_named_with_a_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ServiceLost, match="PREFECT_HOME.*--orchestrator none"):
        _require_home(tmp_path / "file" / "home")
    _require_home(tmp_path / "new" / "home")
    assert list((tmp_path / "new" / "home").iterdir()) == []


def test_a_server_that_is_down_is_named_with_a_remedy():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/api"
        with pytest.raises(ServiceLost, match=r"(?s)127\.0\.0\.1.*--orchestrator none"):
            _require_answer(url)


def test_a_server_that_answers_will_do():
    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/api/health" else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Healthy) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        _require_answer(f"http://127.0.0.1:{server.server_port}/api/")
        with pytest.raises(ServiceLost, match="404"):
            _require_answer(f"http://127.0.0.1:{server.server_port}/other")
        server.shutdown()

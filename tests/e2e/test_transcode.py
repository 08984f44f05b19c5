"""The web application of the examples: served by uvicorn, asked by real clients, killed."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from dask_flame.testing import marked_processes
from tests.support.browser_help import Browser
from tests.support.paths import ROOT, free_port
from tests.support.waiting import wait_for

for _needed in ("fastapi", "uvicorn"):
    pytest.importorskip(_needed, reason=f"pip install {_needed}")
imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="pip install imageio-ffmpeg")

SCRIPT = ROOT / "examples" / "transcode.py"
FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
_TOKEN = "DASK_FLAME_TEST_TRANSCODE"
#: Seconds within which a server starts, or a runner boots, on a busy machine.
WITHIN = 300

pytestmark = pytest.mark.timeout(3 * WITHIN)


class Server:
    """The application in a process of its own, with a folder for all temporary files."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.token = uuid.uuid4().hex
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.port = free_port()
        own = {_TOKEN: self.token, "TMPDIR": str(self.temporary)}
        settings = {f"TRANSCODE_{name}": value for name, value in settings.items()}
        self.log = (folder / "log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), "--port", str(self.port)],
            env=os.environ | own | settings,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        wait_for(self.answers, WITHIN, "an answer of the server")

    def answers(self) -> bool:
        assert self.process.poll() is None, self.said()
        with suppress(ConnectionError):
            return bool(self.pool())
        return False

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WITHIN)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def pool(self) -> Any:
        return self.ask("GET", "/pool")[1]

    def send(self, film: bytes, path: str = "/thumbnails", **headers: str) -> tuple[int, Any]:
        return self.ask("POST", path, film, **headers)

    def begin(self, film: bytes, *, much: int | None = None) -> socket.socket:
        """Send a film, or the beginning of it, and do not wait for the answer."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=WITHIN)
        head = f"POST /thumbnails HTTP/1.1\r\nHost: a\r\nContent-Length: {len(film)}\r\n\r\n"
        connection.sendall(head.encode() + film[:much])
        return connection

    def ffmpegs(self) -> list[psutil.Process]:
        found = []
        for process in marked_processes(self.token, variable=_TOKEN):
            with suppress(psutil.Error):
                if process.name().startswith("ffmpeg"):
                    found.append(process)
        return found

    def nothing_left(self) -> None:
        """Wait until no process and no file of the server is left."""
        wait_for(lambda: not marked_processes(self.token, variable=_TOKEN), what=self.said())
        wait_for(lambda: not list(self.temporary.iterdir()), what=str(self.temporary))

    def end(self, signum: int = signal.SIGTERM) -> None:
        """End the server, and wait until nothing is left of it."""
        self.process.send_signal(signum)
        self.process.wait(WITHIN)
        self.nothing_left()

    def close(self) -> None:
        for process in marked_processes(self.token, variable=_TOKEN):
            process.kill()
        self.process.wait()
        self.log.close()


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Films that ffmpeg has made, and things that are none."""
    folder = tmp_path_factory.mktemp("films")

    def film(name: str, *arguments: str) -> bytes:
        subprocess.run([FFMPEG, "-v", "error", *arguments, folder / name], check=True)
        return (folder / name).read_bytes()

    video = ("-c:v", "libx264", "-preset", "ultrafast")
    small = film("small.mp4", "-f", "lavfi", "-i", "testsrc=duration=4:size=320x240:rate=10")
    film("blue.mp4", "-f", "lavfi", "-i", "color=navy:s=1920x1080:r=30:d=4", *video)
    # Minutes of work in a few megabytes.
    again = ("-stream_loop", "999", "-i", str(folder / "blue.mp4"), "-c", "copy")
    return {
        "small": small,
        "slow": film("slow.mp4", *again),
        "cut off": small[:5000],
        "sound": film("sound.mp4", "-f", "lavfi", "-i", "sine=duration=1"),
        "text": b"a letter, not a film\n" * 100,
        "playlist": b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:1/secret.ts\n#EXT-X-ENDLIST\n",
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for all tests that do not kill it."""
    limits = {"LIMIT": "16 MiB", "SECONDS": "10m", "RUNNERS": "3", "IDLE": "1s"}
    server = Server(tmp_path_factory.mktemp("server"), **limits)
    yield server
    try:
        server.end()
    finally:
        server.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers of a test's own."""
    started: list[Server] = []

    def new(**settings: str) -> Server:
        started.append(Server(tmp_path, **settings))
        return started[-1]

    yield new
    for server in started:
        server.close()


@pytest.mark.process
def test_a_burst_has_its_thumbnails_and_then_the_pool_is_empty(
    server: Server, films: dict[str, bytes]
) -> None:
    image = pytest.importorskip("PIL.Image")
    seen: set[str] = set()

    def most() -> bool:
        seen.update(runner["name"] for runner in server.pool()["runners"])
        return len(seen) == 3

    with ThreadPoolExecutor(6) as clients:
        answers = [
            clients.submit(server.send, films["small"], "/thumbnails?count=4") for _ in range(6)
        ]
        wait_for(most, WITHIN, "three runners")
    for answer in answers:
        status, made = answer.result()
        assert (status, made["duration"]) == (200, 4.0)
        assert made["runner"].startswith("ffmpeg-")
        assert len(set(made["images"])) == 4, "the clock in the film goes on"
        kind, _, data = made["images"][0].partition(",")
        assert kind == "data:image/jpeg;base64"
        assert image.open(io.BytesIO(base64.b64decode(data))).size == (320, 240)
    wait_for(lambda: not server.pool()["runners"], WITHIN, "the end of idle runners")


@pytest.mark.process
def test_a_client_that_hangs_up_ends_its_ffmpeg(server: Server, films: dict[str, bytes]) -> None:
    with server.begin(films["slow"]):
        wait_for(server.ffmpegs, WITHIN, "ffmpeg")
        # Others are not disturbed.
        assert server.send(films["small"])[0] == 200
        assert len(server.ffmpegs()) == 1
    wait_for(lambda: not server.ffmpegs(), what="the end of ffmpeg")
    wait_for(lambda: server.pool()["films"] == 0)
    with server.begin(films["slow"], much=100_000):
        wait_for(lambda: server.pool()["films"] == 1)
    wait_for(lambda: server.pool()["films"] == 0, what="the end of half an upload")
    assert "Traceback" not in server.said()
    wait_for(lambda: not server.pool()["runners"], WITHIN, "the end of idle runners")


@pytest.mark.process
def test_what_is_no_film_has_a_reason(server: Server, films: dict[str, bytes]) -> None:
    for film, path, status, says in (
        ("text", "/thumbnails", 415, "not a film that ffmpeg can read"),
        ("playlist", "/thumbnails", 415, "not a film that ffmpeg can read"),
        ("cut off", "/thumbnails", 415, "its end is missing"),
        ("sound", "/thumbnails", 415, "there is no picture in it"),
        ("", "/thumbnails", 400, "--data-binary"),
        ("small", "/thumbnails?count=0", 422, "greater than or equal to 1"),
    ):
        answer = server.send(films.get(film, b""), path)
        assert answer[0] == status, film
        assert says in json.dumps(answer[1]), film
    wait_for(lambda: not server.pool()["runners"], WITHIN, "the end of idle runners")


@pytest.mark.process
def test_a_film_that_is_too_large_is_refused_as_soon_as_that_is_known(server: Server) -> None:
    declared = {"Content-Length": str(17 * 2**20)}
    # The answer comes although nothing of the film was sent.
    assert server.send(b"", **declared) == (413, {"detail": "the film is larger than 16.00 MiB"})
    with socket.create_connection(("127.0.0.1", server.port), timeout=WITHIN) as connection:
        connection.sendall(b"POST /thumbnails HTTP/1.1\r\nHost: a\r\n")
        connection.sendall(b"Transfer-Encoding: chunked\r\n\r\n")
        part = b"100000\r\n" + bytes(2**20) + b"\r\n"
        with suppress(ConnectionError):
            for _ in range(17):
                connection.sendall(part)
        assert b" 413 " in connection.makefile("rb").readline()
    assert server.pool()["runners"] == []


@pytest.mark.process
def test_limits_of_time_and_of_requests_and_a_server_that_is_killed_idle(
    start: Callable[..., Server], films: dict[str, bytes]
) -> None:
    server = start(REQUESTS="1", UPLOAD="2s", SECONDS="1s", RUNNERS="1", IDLE="10m")
    with server.begin(films["small"], much=10) as connection:
        wait_for(lambda: server.pool()["films"] == 1)
        status, says = server.send(films["small"])
        assert (status, says["detail"][:24]) == (503, "1 films are being worked")
        assert b" 408 " in connection.makefile("rb").readline()
    status, says = server.send(films["slow"])
    assert status == 422
    assert "longer than 1 s" in says["detail"]
    wait_for(lambda: not server.ffmpegs(), what="the end of ffmpeg")
    assert [runner["name"] for runner in server.pool()["runners"]] == ["ffmpeg-1"]
    server.end(signal.SIGKILL)


@pytest.mark.process
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_that_ends_during_work_and_an_upload_leaves_nothing(
    signum: int, start: Callable[..., Server], films: dict[str, bytes]
) -> None:
    server = start(SECONDS="10m", UPLOAD="10m", RUNNERS="2")
    slow = films["slow"]
    with server.begin(slow), server.begin(slow), server.begin(slow, much=1_000_000):
        wait_for(lambda: len(server.ffmpegs()) == 2, WITHIN, "ffmpeg, twice")
        wait_for(lambda: server.pool()["films"] == 3)
        server.end(signum)
        if signum == signal.SIGTERM:
            assert server.process.returncode == -signal.SIGTERM


@pytest.mark.browser
def test_the_page_shows_thumbnails_and_the_pool(
    browser: Browser, server: Server, films: dict[str, bytes], tmp_path: Path
) -> None:
    wrong: list[str] = []
    files = [tmp_path / f"{name}.mp4" for name in ("small", "again", "text")]
    for file in files:
        file.write_bytes(films["text" if file.stem == "text" else "small"])
    slow = tmp_path / "slow.mp4"
    slow.write_bytes(films["slow"])

    def open_page() -> Any:
        page = browser.chromium.new_page()
        page.set_default_timeout(90_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(f"http://127.0.0.1:{server.port}/")
        page.wait_for_selector("text=no runner, no cost")
        page.set_input_files("input", files)
        page.wait_for_selector("#runners li")
        page.wait_for_function("() => document.querySelectorAll('img').length == 12")
        page.wait_for_function("() => [...document.images].every((i) => i.naturalWidth == 320)")
        page.wait_for_selector(".wrong >> text=not a film that ffmpeg can read")
        page.set_input_files("input", slow)
        page.wait_for_selector("#runners .busy")
        return page

    page = browser.do(open_page)
    try:
        wait_for(server.ffmpegs, WITHIN, "ffmpeg")
        browser.do(page.click, "button:text-is('Cancel')")
        wait_for(lambda: not server.ffmpegs(), what="the end of ffmpeg")
        browser.do(page.wait_for_selector, "text=no runner, no cost")
    finally:
        browser.do(page.close)
    assert wrong == []

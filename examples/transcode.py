"""A web application that makes thumbnails of films while the request waits: no queue, no workers.

::

    python examples/transcode.py                   # and open http://127.0.0.1:8000
    curl --data-binary @film.mp4 "http://127.0.0.1:8000/thumbnails?count=6"

The endpoint calls ``dask_flame.call(make_thumbnails, film)`` and answers with the result. Uploads
that come together boot runners, up to ``TRANSCODE_RUNNERS``; these end ``TRANSCODE_IDLE`` after the
last one. If a client hangs up, its ffmpeg is ended. If the server is killed, nothing is left.

Any server for ASGI runs it, such as ``uvicorn transcode:app --app-dir examples --reload``. Each of
its processes has a pool of its own. These environment variables are its settings:

- ``TRANSCODE_RUNNERS``, by default one for each CPU; ``TRANSCODE_IDLE``, by default 10s;
- ``TRANSCODE_LIMIT``, the size of a film, by default 32 MiB; ``TRANSCODE_REQUESTS``, the number of
  films that the server takes at a time, by default 64: it holds them in memory;
- ``TRANSCODE_UPLOAD`` and ``TRANSCODE_SECONDS``, the time for an upload and for the work on a film,
  by default 60s and 30s.

Runners are local processes, or pods with ``DASK_FLAME__BACKEND=kubernetes``; their image then needs
``dask-flame[examples]``. ffmpeg is that of the package imageio-ffmpeg (BSD-2-Clause), whose binary
contains parts under the GPL, or the one that ``IMAGEIO_FFMPEG_EXE`` names.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import re
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import dask.config
import imageio_ffmpeg
import uvicorn
from dask.distributed import Client, get_worker
from dask.system import CPU_COUNT
from dask.utils import format_bytes, parse_bytes, parse_timedelta
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse
from starlette.requests import ClientDisconnect

import dask_flame
from dask_flame import BootError, CallTimeout, FlameCluster, Pool, RunnerLost
from dask_flame.integrations.asgi import while_connected

RUNNERS = int(os.environ.get("TRANSCODE_RUNNERS", CPU_COUNT))
IDLE = os.environ.get("TRANSCODE_IDLE", "10s")
LIMIT = parse_bytes(os.environ.get("TRANSCODE_LIMIT", "32 MiB"))
REQUESTS = int(os.environ.get("TRANSCODE_REQUESTS", "64"))
UPLOAD = parse_timedelta(os.environ.get("TRANSCODE_UPLOAD", "60s"))
SECONDS = parse_timedelta(os.environ.get("TRANSCODE_SECONDS", "30s"))
PAGE = Path(__file__).with_suffix(".html")

#: The formats that are read. ffmpeg also knows playlists, which name other files and addresses.
FORMATS = "mov,matroska,webm,avi,flv,mpegts,mpeg,ogg,asf"
GONE = Response(status_code=499)  # for the log: nobody is left to read it


# The call, which runs on a runner


@dataclass(frozen=True)
class Thumbnails:
    """Pictures of a film as data URLs; the film's duration and the time of the work in seconds."""

    images: list[str]
    duration: float
    seconds: float
    runner: str


class BadFilm(Exception):
    """The film cannot be read; the message says why."""


def make_thumbnails(film: bytes, count: int) -> Thumbnails:
    """Return pictures of a film, evenly spaced in time.

    The film is untrusted: ffmpeg opens no other file and no address, and frames have a size limit.
    """
    started = time.perf_counter()
    safe = ("-protocol_whitelist", "file", "-format_whitelist", FORMATS, "-max_pixels", "36000000")
    with TemporaryDirectory() as folder:
        path = Path(folder, "film")
        path.write_bytes(film)
        about = ffmpeg(*safe, "-i", path)  # without an output it only tells what the film is
        found = re.search(r"Duration: (\d+):(\d+):(\d+\.\d+)", about.stderr)
        hours, minutes, rest = map(float, found.groups()) if found else (0.0, 0.0, 0.0)
        duration = 3600 * hours + 60 * minutes + rest
        rate = count / duration if duration else 1
        picture = ("-an", "-vf", f"fps={rate:.6f},scale=320:-2", "-frames:v", str(count))
        done = ffmpeg("-v", "error", *safe, "-i", path, *picture, "-q:v", "4", f"{folder}/%02d.jpg")
        files = sorted(Path(folder).glob("*.jpg"))
        if not files:
            raise BadFilm(reason(done.stderr or about.stderr, folder))
        images = [base64.b64encode(file.read_bytes()).decode() for file in files]
    seconds = time.perf_counter() - started
    urls = [f"data:image/jpeg;base64,{image}" for image in images]
    return Thumbnails(urls, duration, seconds, str(get_worker().name))


def ffmpeg(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run ffmpeg in one thread, since each runner has one CPU."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-hide_banner", "-threads", "1"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, errors="replace")


def reason(output: str, folder: str) -> str:
    """Return ffmpeg's reason in plain words, without the names of files."""
    known = {
        "moov atom not found": "the film is cut off: its end is missing",
        "Invalid data found": "this is not a film that ffmpeg can read",
        "not whitelisted": "this format is not allowed",
        "does not contain any stream": "there is no picture in it",
        "Output file does not contain": "there is no picture in it",
        "exceeds": "its frames are too large",
    }
    for words, plain in known.items():
        if words in output:
            return plain
    last = output.strip().rpartition("\n")[2].replace(folder, "")
    return f"ffmpeg made no picture of it: {last[:200]}"


# The application


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Hold the pool for as long as the server runs. It has no runner until there is a film."""
    pool = Pool(max=RUNNERS, concurrency=1, idle_timeout=IDLE, cpus=1, preload=("imageio_ffmpeg",))
    # A film is sent with its call. Dask would warn of each that is larger than 10 MB.
    dask.config.set({"distributed.admin.large-graph-warning-threshold": 2 * LIMIT})
    async with (
        FlameCluster(pools={"ffmpeg": pool}, asynchronous=True, dashboard_address=None) as cluster,
        Client(cluster, asynchronous=True),
    ):
        app.state.cluster, app.state.requests = cluster, 0
        yield


app = FastAPI(title="Thumbnails", lifespan=lifespan)


@app.post("/thumbnails", response_model=Thumbnails)
async def thumbnails(request: Request, count: Annotated[int, Query(ge=1, le=24)] = 6) -> Any:
    """Return thumbnails of the film in the body of the request."""
    if app.state.requests >= REQUESTS:
        busy = f"{REQUESTS} films are being worked on; try again in a few seconds"
        raise HTTPException(503, busy, {"Retry-After": "5"})
    app.state.requests += 1
    try:
        film = await received(request)
        call = dask_flame.call(make_thumbnails, film, count, pool="ffmpeg", timeout=SECONDS)
        return await while_connected(request, call)
    except BadFilm as error:
        raise HTTPException(415, str(error)) from None
    except CallTimeout:
        late = f"the work on this film took longer than {SECONDS:g} s; send a shorter one"
        raise HTTPException(422, late) from None
    except (BootError, RunnerLost) as error:
        raise HTTPException(503, str(error)) from None
    except (ClientDisconnect, ConnectionAbortedError):
        return GONE
    finally:
        app.state.requests -= 1


async def received(request: Request) -> bytes:
    """Return the body of a request, within the limits of size and time."""
    too_large = HTTPException(413, f"the film is larger than {format_bytes(LIMIT)}")
    if int(request.headers.get("content-length", 0)) > LIMIT:
        raise too_large
    film = bytearray()
    try:
        async with asyncio.timeout(UPLOAD):
            async for part in request.stream():
                film += part
                if len(film) > LIMIT:
                    raise too_large
    except TimeoutError:
        raise HTTPException(408, f"the upload took longer than {UPLOAD:g} s") from None
    if not film:
        raise HTTPException(400, "there is no film in the body; type curl --data-binary @film.mp4")
    return bytes(film)


@app.get("/pool")
async def pool() -> dict[str, Any]:
    """Return the runners of the pool and their states, for the page."""
    runners = [
        {"name": runner.name, "state": "busy" if runner.busy else runner.phase.value}
        for runner in app.state.cluster.runners.values()
    ]
    return {"runners": runners, "max": RUNNERS, "films": app.state.requests, "limit": LIMIT}


@app.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """Return the page."""
    return FileResponse(PAGE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    args = parser.parse_args()
    # Films that are being worked on at a Ctrl-C have five seconds.
    uvicorn.run(app, host=args.host, port=args.port, timeout_graceful_shutdown=5)

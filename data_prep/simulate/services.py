"""The services of the embedded region on this machine alone: a STAC API and a file server.

Run them by hand with ``python -m data_prep.simulate.services <folder>``; code uses :func:`serve`. Both run in one
child process, which ends with its parent however that ends.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cropseg.core.errors import ConfigError, CropsegError, InputError, SourceError
from cropseg.core.progress import say, warn

if TYPE_CHECKING:
    import uvicorn

_READY = "ready"
_START_SECONDS = 60.0
_STOP_SECONDS = 10.0


@dataclass(frozen=True)
class Endpoints:
    """Addresses of the running services and the account that may use them.

    Attributes:
        stac_url: Root of the STAC API.
        token_url: Where tokens are asked for, as at CDSE's identity service.
        download_url: Root of the file server, in the place of ``https://download.dataspace.copernicus.eu``.
        username: The account's name.
        password: Its password.
    """

    stac_url: str
    token_url: str
    download_url: str
    username: str
    password: str


@contextlib.contextmanager
def serve(
    folder: Path | str,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    username: str = "demo",
    password: str | None = None,
    token_seconds: float = 600.0,
) -> Iterator[Endpoints]:
    """Run both services while the block runs.

    Args:
        folder: A simulated region: ``stac/items.json``, ``stac/collection.json``, ``products/<id>.zip``.
        host: Address to listen on; loopback, so that nothing outside this machine reaches it.
        port: Port of the STAC API, the file server takes the next one; 0 takes any two that are free.
        username: Who may download.
        password: The password; a new random one if None.
        token_seconds: Life of an access token.

    Yields:
        Where the services listen; they answer by then.

    Raises:
        InputError: The folder is not a simulated region.
        ConfigError: The port is taken or not allowed.
        SourceError: The services did not start.
    """
    folder = Path(folder)
    _check_folder(folder)
    sockets = listen(host, port)
    endpoints = _endpoints(sockets, username, password or secrets.token_urlsafe(16))
    # A process of its own, started afresh: threads would be copied into forked workers, and a server in a thread
    # competes with the work for the interpreter. The sockets are bound here, so that a taken port is told at once.
    numbers = [each.fileno() for each in sockets]
    order = json.dumps([str(folder.resolve()), numbers, asdict(endpoints), token_seconds])
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "data_prep.simulate.services", "--child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=numbers,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(_import_path())},
        text=True,
    )
    try:
        for each in sockets:
            each.close()
        _await_start(child, order)
        yield endpoints
    finally:
        _stop(child)


def listen(host: str, port: int) -> list[socket.socket]:
    """Bind two ports: ``port`` and the next, or any two that are free if ``port`` is 0.

    Raises:
        ConfigError: One is taken, or the host is not an address of this machine.
    """
    bound: list[socket.socket] = []
    for number in (port, port + 1) if port else (0, 0):
        try:
            each = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            bound.append(each)
            # Lets a port be used again right after its last user, not beside another listener.
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            each.bind((host, number))
            each.listen(128)
        except (OSError, OverflowError) as error:
            for other in bound:
                other.close()
            raise ConfigError(
                f"cannot listen on {host} port {number} ({getattr(error, 'strerror', None) or error})",
                None,
                "the port may be in use: choose another, or 0 for any that is free",
            ) from error
    return bound


def _endpoints(sockets: Sequence[socket.socket], username: str, password: str) -> Endpoints:
    from data_prep.simulate.file_server import TOKEN_PATH

    urls = []
    for each in sockets:
        name, number = each.getsockname()[:2]
        urls.append(f"http://[{name}]:{number}" if ":" in name else f"http://{name}:{number}")
    return Endpoints(urls[0], urls[1] + TOKEN_PATH, urls[1], username, password)


def _check_folder(folder: Path) -> None:
    for path in (folder / "stac" / "items.json", folder / "stac" / "collection.json", folder / "products"):
        if not path.exists():
            raise InputError("not a simulated region: nothing at", str(path), "run simulate.py first, or mend the path")


def _import_path() -> list[str]:
    """Where the child finds this package, whatever folder the parent was started in."""
    own = str(Path(__file__).resolve().parents[2])
    return [own, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]


def _await_start(child: subprocess.Popen[str], order: str) -> None:
    """Hand the order over and wait until the child says that both services answer."""
    timer = threading.Timer(_START_SECONDS, child.kill)
    timer.start()
    try:
        _tell(child, order)
        answer = child.stdout.readline().strip() if child.stdout else ""
    finally:
        timer.cancel()
    if answer != _READY:
        reason = answer or "they ended without a word"
        raise SourceError(f"the services did not start ({reason})", None, "mend the reason and start them again")


def _stop(child: subprocess.Popen[str]) -> None:
    """Ask the child to end; kill it if it does not."""
    _tell(child, "stop")
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
    try:
        child.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _tell(child: subprocess.Popen[str], line: str) -> None:
    """Write a line to the child; one that has ended already does not read it."""
    if child.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(line + "\n")
            child.stdin.flush()


def _child() -> int:
    """What the child process does: serve until it is told to stop, or its parent is gone."""
    # Ctrl-C reaches every process of the terminal; the parent decides when the services end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # stac-fastapi logs every 4xx answer as an error, and advice on its settings when imported: both are no one's fault
    # here. What goes wrong inside a request is a 500, which uvicorn logs with its traceback.
    logging.getLogger("stac_fastapi").setLevel(logging.CRITICAL)
    folder, numbers, endpoints, token_seconds = json.loads(sys.stdin.readline())
    sockets = [socket.socket(fileno=number) for number in numbers]
    try:
        servers = _start(Path(folder), sockets, Endpoints(**endpoints), token_seconds)
    except CropsegError as error:
        sys.stdout.write(f"{' '.join(str(error).split())}\n")
        return error.exit_code
    sys.stdout.write(f"{_READY}\n")
    sys.stdout.flush()
    # The pipe ends when the parent ends, however that happens.
    sys.stdin.readline()
    for server in servers:
        server.should_exit = server.force_exit = True
    return 0


def _start(
    folder: Path, sockets: Sequence[socket.socket], endpoints: Endpoints, token_seconds: float
) -> list[uvicorn.Server]:
    """Start both applications in threads and return when they answer."""
    import uvicorn

    from data_prep.simulate import file_server, stac_api

    account = file_server.Account(endpoints.username, endpoints.password, token_seconds)
    apps = (stac_api.create_app(folder / "stac", endpoints.download_url), file_server.create_app(folder, account))
    servers = []
    for app, bound in zip(apps, sockets, strict=True):
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        if not server.started:
            raise SourceError("a server ended while starting", None, "see the lines above")
        servers.append(server)
    return servers


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve a simulated region until Ctrl-C.

    Args:
        arguments: Of the command line; ``sys.argv`` if None.

    Returns:
        Exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m data_prep.simulate.services", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="a region that simulate.py made")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="port of the STAC API; the file server takes the next one")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        return _child()
    if options.folder is None:
        parser.error("give the folder of a simulated region")
    try:
        with serve(options.folder, host=options.host, port=options.port) as endpoints:
            say(f"STAC API   {endpoints.stac_url}")
            say(f"tokens     {endpoints.token_url}")
            say(f"downloads  {endpoints.download_url}")
            say(f"account    {endpoints.username} / {endpoints.password}")
            say("Ctrl-C stops them")
            threading.Event().wait()
    except KeyboardInterrupt:
        say("stopped")
    except CropsegError as error:
        warn(f"error: {error}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

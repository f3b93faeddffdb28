"""The real thing to hold the in-memory STAC API against: stac-fastapi-pgstac on a private PostgreSQL with PostGIS."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import requests
from real import free_ports

QUERYABLES = {
    "eo:cloud_cover": {"type": "number"},
    "sat:relative_orbit": {"type": "integer"},
    "platform": {"type": "string"},
    "grid:code": {"type": "string"},
    "processing:version": {"type": "string"},
}


def missing() -> str | None:
    """Why pgstac cannot run here; None if it can."""
    found = _binaries()
    if found is None:
        return "PostgreSQL is not installed (apt-get install postgresql postgresql-15-postgis-3)"
    extensions = list(Path("/usr/share/postgresql").glob("*/extension/postgis.control"))
    extensions += list(found.parent.glob("share/**/postgis.control"))
    if not extensions:
        return "PostGIS is not installed (apt-get install postgresql-15-postgis-3)"
    return None


def _binaries() -> Path | None:
    """The folder of initdb: Debian keeps it off the path."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    on_path = shutil.which("initdb")
    folders += [Path(on_path).parent] if on_path else []
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


@contextlib.contextmanager
def pgstac(items: list[dict], collection: dict) -> Iterator[str]:
    """Run a fresh cluster and stac-fastapi-pgstac over ``items``; give the root of the API."""
    binaries = _binaries()
    assert binaries is not None
    # PostgreSQL refuses to run as root, and its user cannot look into pytest's own folders.
    folder = Path(tempfile.mkdtemp(prefix="cropseg-pg-"))
    as_postgres: list[str] = []
    if os.geteuid() == 0:
        user = pwd.getpwnam("postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)
        as_postgres = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    (port,) = free_ports(1)
    data = str(folder / "data")
    environment = {
        # Measuring the coverage of PostgreSQL's loader and server would only slow them down.
        **{key: value for key, value in os.environ.items() if not key.startswith("COVERAGE")},
        **dict(PGHOST="127.0.0.1", PGPORT=str(port), PGUSER="postgres", PGPASSWORD="none", PGDATABASE="postgres"),
    }

    def run(*command: str) -> None:
        subprocess.run(command, check=True, env=environment, cwd=folder, capture_output=True, timeout=120)

    try:
        run(*as_postgres, str(binaries / "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "--no-sync",
            "-E", "UTF8", "--locale=C")  # fmt: skip
        settings = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        # pg_ctl's child would hold a pipe open, so its output goes to the log.
        subprocess.run(
            [*as_postgres, binaries / "pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", settings, "start"],
            check=True, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60,
        )  # fmt: skip
        try:
            pypgstac = [sys.executable, "-m", "pypgstac.pypgstac"]
            run(*pypgstac, "migrate")
            for name, rows in (("collections", [collection]), ("items", items)):
                (folder / f"{name}.ndjson").write_text("\n".join(json.dumps(row) for row in rows))
                run(*pypgstac, "load", name, str(folder / f"{name}.ndjson"))
            (folder / "queryables.json").write_text(json.dumps({"type": "object", "properties": QUERYABLES}))
            run(*pypgstac, "load_queryables", str(folder / "queryables.json"))
            with _api(environment, folder) as url:
                yield url
        finally:
            subprocess.run(
                [*as_postgres, binaries / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop"],
                check=True, cwd=folder, stdout=subprocess.DEVNULL, timeout=60,
            )  # fmt: skip
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _api(environment: dict[str, str], folder: Path) -> Iterator[str]:
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "uvicorn", "--factory", "stac_fastapi.pgstac.app:create_app"]
    with (folder / "api.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], env=environment, cwd=folder, stdout=log, stderr=log
        )
        try:
            for _ in range(600):
                if server.poll() is not None:
                    break
                with contextlib.suppress(requests.ConnectionError):
                    if requests.get(f"{url}/_mgmt/ping", timeout=5).ok:
                        yield url
                        return
                time.sleep(0.1)
            raise RuntimeError(f"stac-fastapi-pgstac did not start: {(folder / 'api.log').read_text()[-2000:]}")
        finally:
            server.terminate()
            server.wait(20)

"""A file server that speaks the Copernicus Data Space's token and download addresses.

Token: ``POST /auth/realms/CDSE/protocol/openid-connect/token`` (OAuth 2 password and refresh grants, RFC 6749).
Download: ``GET /odata/v1/Products(<uuid>)/$value`` gives the zip, ``…/Nodes(<name>.SAFE)/Nodes(…)/$value`` one file of
it; both ask for ``Authorization: Bearer`` and honour ``Range`` (RFC 9110, one range).
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from cropseg.core.errors import InputError
from cropseg.core.storage import read_json

TOKEN_PATH: Final = "/auth/realms/CDSE/protocol/openid-connect/token"
"""Path of the token address, as on ``identity.dataspace.copernicus.eu``."""

CLIENT_ID: Final = "cdse-public"
"""The client that CDSE's documentation tells everyone to be."""

_ADDRESS: Final = re.compile(r"Products\(([0-9a-fA-F-]{36})\)((?:/Nodes\([^()/]+\))*)/\$value")
_NODE: Final = re.compile(r"/Nodes\(([^()/]+)\)")
_RANGE: Final = re.compile(r"bytes=(\d*)-(\d*)")
_CHUNK: Final = 1 << 20


@dataclass(frozen=True)
class Account:
    """Who may download, and for how long a token lasts.

    Attributes:
        username: The account's name.
        password: Its password.
        token_seconds: Life of an access token; CDSE gives 600 (1800 at times).
        refresh_seconds: Life of a refresh token.
    """

    username: str
    password: str
    token_seconds: float = 600.0
    refresh_seconds: float = 3600.0


@dataclass
class Tokens:
    """The tokens that were given out, each with the moment (monotonic seconds) at which it ends."""

    account: Account
    access: dict[str, float] = field(default_factory=dict)
    refresh: dict[str, float] = field(default_factory=dict)

    def grant(self) -> dict[str, Any]:
        """A new pair of tokens, as the token address answers."""
        now = time.monotonic()
        access, refresh = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        self.access[access] = now + self.account.token_seconds
        self.refresh[refresh] = now + self.account.refresh_seconds
        return {
            "access_token": access,
            "expires_in": int(self.account.token_seconds),
            "refresh_token": refresh,
            "refresh_expires_in": int(self.account.refresh_seconds),
            "token_type": "Bearer",
            "not-before-policy": 0,
            "scope": "AUDIENCE_PUBLIC openid email profile ondemand_processing user-context",
        }

    def renew(self, token: str) -> dict[str, Any] | None:
        """A new pair for a refresh token, which is thereby spent; None if it is unknown or too old."""
        ends = self.refresh.pop(token, None)
        return self.grant() if ends is not None and time.monotonic() < ends else None

    def allows(self, header: str | None) -> bool:
        """Whether an ``Authorization`` header carries a token that is still good."""
        scheme, _, token = (header or "").partition(" ")
        return scheme.lower() == "bearer" and time.monotonic() < self.access.get(token.strip(), 0.0)

    def knows(self, username: object, password: object) -> bool:
        """Whether these are the account's name and password."""
        given, wanted = f"{username}\0{password}", f"{self.account.username}\0{self.account.password}"
        return secrets.compare_digest(given.encode(), wanted.encode())


def create_app(folder: Path, account: Account) -> FastAPI:
    """The file server over ``<folder>/products``.

    Args:
        folder: With ``stac/items.json``, whose products are offered, and ``products/<id>.zip``.
        account: Who may download.

    Raises:
        InputError: The catalogue or a zip is missing.
    """
    archives = _archives(folder)
    tokens = Tokens(account)
    app = FastAPI(title="cropseg: files of the embedded region", openapi_url=None)

    @app.post(TOKEN_PATH)
    async def token(request: Request) -> Response:
        """Give tokens for a password or a refresh token."""
        form = await request.form()
        if form.get("client_id") != CLIENT_ID:
            return _refuse_grant("invalid_client", "Invalid client or Invalid client credentials", 401)
        if form.get("grant_type") == "password":
            if not tokens.knows(form.get("username"), form.get("password")):
                return _refuse_grant("invalid_grant", "Invalid user credentials", 401)
            return JSONResponse(tokens.grant())
        if form.get("grant_type") == "refresh_token":
            renewed = tokens.renew(str(form.get("refresh_token")))
            if renewed is None:
                return _refuse_grant("invalid_grant", "Token is not active", 400)
            return JSONResponse(renewed)
        return _refuse_grant("unsupported_grant_type", "Unsupported grant_type", 400)

    @app.api_route("/odata/v1/{address:path}", methods=["GET", "HEAD"])
    def download(address: str, request: Request) -> Response:
        """Give a product's zip or one file of it."""
        if not tokens.allows(request.headers.get("authorization")):
            return _refuse(401, "Unauthorized", {"WWW-Authenticate": "Bearer"})
        found = _ADDRESS.fullmatch(address)
        archive = archives.get(found.group(1).lower()) if found else None
        if found is None or archive is None or not archive.is_file():
            return _refuse(404, "Not Found")
        nodes = _NODE.findall(found.group(2))
        if not nodes:
            return _serve(archive, 0, archive.stat().st_size, "application/zip", f"{archive.stem}.SAFE.zip", request)
        member = _member(archive, "/".join(nodes))
        if member is None:
            return _refuse(404, "Not Found")
        return _serve(archive, *member, "application/octet-stream", nodes[-1], request)

    return app


def _archives(folder: Path) -> Mapping[str, Path]:
    """Zips by uuid."""
    archives = {}
    for item in read_json(folder / "stac" / "items.json")["features"]:
        path = folder / "products" / f"{item['id']}.zip"
        if not path.is_file():
            raise InputError("a product of the catalogue is missing", str(path), "simulate the region again")
        found = re.search(r"Products\(([0-9a-fA-F-]{36})\)", item["assets"]["Product"]["href"])
        if found is None:
            raise InputError("a product's address has no uuid", item["id"], "simulate the region again")
        archives[found.group(1).lower()] = path
    return archives


def _member(archive: Path, name: str) -> tuple[int, int] | None:
    """(first byte, length) of a stored member inside the zip; None if there is none of that name."""
    with zipfile.ZipFile(archive) as opened:
        try:
            info = opened.getinfo(name)
        except KeyError:
            return None
    if info.compress_type != zipfile.ZIP_STORED:
        raise InputError("a member of a simulated zip is compressed", name, "simulate the region again")
    with archive.open("rb") as file:
        # Local file header (PKWARE APPNOTE 4.3.7): 30 bytes, then a name and an extra field of these lengths.
        file.seek(info.header_offset + 26)
        name_length, extra_length = (int.from_bytes(file.read(2), "little") for _ in range(2))
    return info.header_offset + 30 + name_length + extra_length, info.file_size


def _serve(path: Path, start: int, length: int, kind: str, name: str, request: Request) -> Response:
    """``length`` bytes of ``path`` from ``start``, or the range of them that was asked for."""
    tag = f'"{hashlib.sha256(f"{path.name}:{start}:{length}".encode()).hexdigest()[:16]}"'
    headers = {"Accept-Ranges": "bytes", "Content-Disposition": f'attachment; filename="{name}"', "ETag": tag}
    first, last, status = 0, length - 1, 200
    asked = _RANGE.fullmatch(request.headers.get("range", ""))
    # A range on another version of the file is answered with the whole file (RFC 9110, 13.1.5).
    if asked and asked.groups() != ("", "") and request.headers.get("if-range", tag) == tag:
        begin, end = asked.groups()
        first = int(begin) if begin else max(0, length - int(end))
        last = min(int(end), length - 1) if begin and end else length - 1
        if first > last:
            return Response(status_code=416, headers={"Content-Range": f"bytes */{length}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{length}"
        status = 206
    headers["Content-Length"] = str(last - first + 1)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=kind)
    return StreamingResponse(_read(path, start + first, last - first + 1), status, headers, kind)


def _read(path: Path, start: int, length: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while length > 0 and (chunk := file.read(min(_CHUNK, length))):
            length -= len(chunk)
            yield chunk


def _refuse(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"detail": detail}, status_code=status, headers=headers)


def _refuse_grant(error: str, description: str, status: int) -> Response:
    return JSONResponse({"error": error, "error_description": description}, status_code=status)

"""Fetching: logins, retries, resumed and broken downloads, and what an archive must not do."""

import hashlib
import io
import json
import os
import stat
import threading
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from servers import Answer, serving

from cropseg.core.errors import InputError, SourceError, StorageError
from data_prep import fetch
from data_prep.fetch import Fetcher, cached, unpack
from data_prep.products import Asset, Product
from data_prep.tokens import Credentials, TokenManager

NAME = "S2A_MSIL2A_20220501T100000_N0510_R122_T33UXP_20220501T120000"
UUID = "28ca37fe-0847-4601-a50a-6cdf1fb4be6e"


def zipped(files: dict[str, bytes] | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in (files or {f"{NAME}.SAFE/a.xml": b"<a/>", f"{NAME}.SAFE/g/b.jp2": b"x" * 5000}).items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


ZIP = zipped()


def product(content: bytes = ZIP, checksum: str | None = None, size: int | None = None, name: str = NAME) -> Product:
    checksum = checksum or "d50110" + hashlib.md5(content).hexdigest()
    asset = Asset("Product", "https://elsewhere/x", size or len(content), checksum)
    return Product(
        name, UUID, datetime(2022, 5, 1, tzinfo=UTC), "33UXP", 1.0, "05.10", "EPSG:32633", {}, {"Product": asset}
    )


class Service:
    """Token and archive in one; ``faults`` are answered before the truth."""

    def __init__(self, content: bytes = ZIP, faults=(), *, expires: float = 600, ranges: bool = True):
        self.content, self.faults, self.expires, self.ranges = content, list(faults), expires, ranges
        self.tokens, self.valid = 0, None

    def __call__(self, request):
        if request.method == "POST":
            form = dict(pair.split("=") for pair in request.body.decode().split("&"))
            if form["client_id"] != "cdse-public" or "Authorization" in request.headers:
                return Answer(400, {})
            if form["grant_type"] == "password" and (form["username"], form["password"]) != ("me", "secret"):
                return Answer(401, {"error": "invalid_grant"})
            self.tokens += 1
            self.valid = f"token{self.tokens}"
            return Answer(200, {"access_token": self.valid, "expires_in": self.expires, "refresh_token": "r",
                                "refresh_expires_in": 3600})  # fmt: skip
        if self.faults:
            fault = self.faults.pop(0)
            if fault is not None:
                return fault
        if request.headers.get("Authorization") != f"Bearer {self.valid}":
            return Answer(401)
        assert request.path == f"/odata/v1/Products({UUID})/$value"
        asked = request.headers.get("Range")
        if asked and self.ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(self.content):
                return Answer(416)
            span = f"bytes {start}-{len(self.content) - 1}/{len(self.content)}"
            return Answer(206, self.content[start:], {"Content-Range": span})
        return Answer(200, self.content)


@pytest.fixture
def account(monkeypatch, tmp_path):
    monkeypatch.setenv("CDSE_USERNAME", "me")
    monkeypatch.setenv("CDSE_PASSWORD", "secret")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))


def fetcher(url: str, cache: Path, attempts: int = 4) -> Fetcher:
    tokens = TokenManager(f"{url}/token", attempts=attempts, backoff_s=0.01)
    return Fetcher(url, tokens, cache, attempts=attempts, backoff_s=0.01, timeout_s=5)


def downloads(server) -> list:
    return [request for request in server.requests if request.method == "GET"]


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize("kind", [("d50110", "md5"), ("1620", "sha3_256"), ("1220", "sha256")])
def test_a_product_is_fetched_once(tmp_path, kind):
    checksum = kind[0] + hashlib.new(kind[1], ZIP).hexdigest()
    with serving(Service()) as server:
        safe = fetcher(server.url, tmp_path).fetch(product(checksum=checksum))
        again = fetcher(server.url, tmp_path).fetch(product(checksum=checksum))
        assert len(downloads(server)) == 1
    assert safe == again == tmp_path / NAME / f"{NAME}.SAFE"
    assert (safe / "g" / "b.jp2").read_bytes() == b"x" * 5000
    assert not [path for path in (tmp_path / ".parts").iterdir() if path.suffix != ".lock"]


@pytest.mark.usefixtures("account")
def test_a_busy_or_failing_archive_is_asked_again(tmp_path):
    faults = [Answer(429, headers={"Retry-After": "0"}), Answer(503), Answer(500)]
    with serving(Service(faults=faults)) as server:
        assert fetcher(server.url, tmp_path).fetch(product()).is_dir()
        assert len(downloads(server)) == 4


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_connection_is_taken_up_where_it_broke(tmp_path, monkeypatch, ranges):
    monkeypatch.setattr(fetch, "_CHUNK", 1000)
    with serving(Service(faults=[Answer(200, ZIP, cut=2000)], ranges=ranges)) as server:
        safe = fetcher(server.url, tmp_path).fetch(product())
        assert downloads(server)[1].headers["Range"] == "bytes=2000-"
    assert (safe / "g" / "b.jp2").read_bytes() == b"x" * 5000


@pytest.mark.usefixtures("account")
def test_a_killed_download_is_taken_up_by_the_next_run(tmp_path):
    wanted = product()
    part = tmp_path / ".parts" / f"{NAME}.{wanted.assets['Product'].checksum[-16:]}.part"
    part.parent.mkdir()
    part.write_bytes(ZIP[:1234])
    with serving(Service()) as server:
        assert fetcher(server.url, tmp_path).fetch(wanted).is_dir()
        assert [request.headers["Range"] for request in downloads(server)] == ["bytes=1234-"]


@pytest.mark.usefixtures("account")
def test_a_whole_part_that_was_not_unpacked_is_used(tmp_path):
    wanted = product()
    part = tmp_path / ".parts" / f"{NAME}.{wanted.assets['Product'].checksum[-16:]}.part"
    part.parent.mkdir()
    part.write_bytes(ZIP)
    with serving(Service()) as server:
        assert fetcher(server.url, tmp_path).fetch(wanted).is_dir()


@pytest.mark.usefixtures("account")
def test_wrong_content_is_refused_and_leaves_nothing(tmp_path):
    other = zipped({f"{NAME}.SAFE/a.xml": b"<b/>", f"{NAME}.SAFE/g/b.jp2": b"y" * 5000})
    assert len(other) == len(ZIP)
    with serving(Service(other)) as server, pytest.raises(SourceError, match="checksum"):
        fetcher(server.url, tmp_path, attempts=2).fetch(product())
    assert not (tmp_path / NAME).exists()
    assert not list((tmp_path / ".parts").glob("*.part"))


@pytest.mark.usefixtures("account")
def test_a_damaged_byte_is_mended_by_a_second_download(tmp_path):
    damaged = ZIP[:100] + bytes([ZIP[100] ^ 1]) + ZIP[101:]
    with serving(Service(faults=[Answer(200, damaged)])) as server:
        assert fetcher(server.url, tmp_path).fetch(product()).is_dir()


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize(("status", "words"), [(404, "has no product"), (410, "has no product"), (418, "answers 418")])
def test_final_answers_are_not_asked_again(tmp_path, status, words):
    with serving(Service(faults=[Answer(status)] * 9)) as server:
        with pytest.raises(SourceError, match=words):
            fetcher(server.url, tmp_path).fetch(product())
        assert len(downloads(server)) == 1


def test_wrong_password_names_the_variables_and_shows_no_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("CDSE_USERNAME", "me")
    monkeypatch.setenv("CDSE_PASSWORD", "hunter2")
    with serving(Service()) as server, pytest.raises(SourceError, match="CDSE_USERNAME and CDSE_PASSWORD") as caught:
        fetcher(server.url, tmp_path).fetch(product())
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(Credentials("me", "hunter2", "123456"))
    assert "123456" not in repr(Credentials("me", "hunter2", "123456"))


def test_no_account_at_all(tmp_path, monkeypatch):
    for name in ("CDSE_USERNAME", "CDSE_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with serving(Service()) as server, pytest.raises(InputError, match=r"no account for 127.0.0.1.*CDSE_USERNAME"):
        fetcher(server.url, tmp_path).fetch(product())


def test_account_from_netrc_which_requests_must_not_use_itself(tmp_path, monkeypatch):
    for name in ("CDSE_USERNAME", "CDSE_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "netrc"
    path.write_text("machine 127.0.0.1 login me password secret\n")
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    monkeypatch.setenv("NETRC", str(path))
    with serving(Service()) as server:  # it refuses a token request with a Basic header, and any other bearer
        assert fetcher(server.url, tmp_path / "cache").fetch(product()).is_dir()


def test_a_broken_netrc_is_named_without_its_content(tmp_path, monkeypatch):
    monkeypatch.delenv("CDSE_USERNAME", raising=False)
    path = tmp_path / "netrc"
    path.write_text("machine 127.0.0.1 hunter2\n")
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    monkeypatch.setenv("NETRC", str(path))
    with pytest.raises(InputError, match="netrc cannot be read") as caught:
        Credentials.find("http://127.0.0.1/token")
    assert "hunter2" not in str(caught.value)


@pytest.mark.usefixtures("account")
def test_an_expired_token_is_renewed_before_and_after_the_server_says_so(tmp_path):
    service = Service(expires=30)  # no longer than the margin: each use asks again
    with serving(service) as server:
        tokens = TokenManager(f"{server.url}/token")
        assert tokens.token() != tokens.token()
        assert b"grant_type=refresh_token" in server.requests[-1].body
    service = Service(faults=[Answer(401)])
    with serving(service) as server:
        assert fetcher(server.url, tmp_path).fetch(product()).is_dir()
        assert service.tokens == 2


@pytest.mark.usefixtures("account")
def test_the_account_is_refused_by_the_archive_twice(tmp_path):
    with serving(Service(faults=[Answer(403)] * 9)) as server:
        with pytest.raises(SourceError, match="refuses the login"):
            fetcher(server.url, tmp_path).fetch(product())
        assert len(downloads(server)) == 2


@pytest.mark.usefixtures("account")
def test_identity_service_down(tmp_path):
    with serving(lambda _: Answer(503)) as server, pytest.raises(SourceError, match="no token from"):
        fetcher(server.url, tmp_path, attempts=2).fetch(product())


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize("damage", ["missing", "shorter", "unmarked"])
def test_a_cache_that_is_not_whole_is_fetched_again(tmp_path, damage):
    with serving(Service()) as server:
        safe = fetcher(server.url, tmp_path).fetch(product())
        if damage == "missing":
            (safe / "a.xml").unlink()
        elif damage == "shorter":
            (safe / "g" / "b.jp2").write_bytes(b"x")
        else:
            (safe.parent / "complete.json").unlink()
        assert cached(safe.parent) is None
        assert fetcher(server.url, tmp_path).fetch(product()) == safe
        assert len(downloads(server)) == 2
    assert (safe / "g" / "b.jp2").read_bytes() == b"x" * 5000


@pytest.mark.usefixtures("account")
def test_two_at_once_fetch_once(tmp_path):
    with serving(Service()) as server:
        threads = [threading.Thread(target=fetcher(server.url, tmp_path).fetch, args=[product()]) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(downloads(server)) == 1


@pytest.mark.parametrize("name", ["../evil.txt", "/etc/evil", f"{NAME}.SAFE/../../evil", "other.SAFE/a", "..\\evil"])
def test_an_archive_stays_in_its_folder(tmp_path, name):
    archive = tmp_path / "a.part"
    archive.write_bytes(zipped({f"{NAME}.SAFE/a.xml": b"", name: b"evil"}))
    with pytest.raises(SourceError, match="outside"):
        unpack(archive, tmp_path / NAME, NAME)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.part"]


def test_links_in_an_archive_are_refused(tmp_path):
    archive = tmp_path / "a.part"
    with zipfile.ZipFile(archive, "w") as file:
        link = zipfile.ZipInfo(f"{NAME}.SAFE/link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(link, "/etc/passwd")
    with pytest.raises(SourceError, match="outside"):
        unpack(archive, tmp_path / NAME, NAME)


@pytest.mark.parametrize("content", [b"no zip", ZIP[:-100], zipped({f"{NAME}.SAFE": b""})])
def test_a_broken_archive_leaves_nothing(tmp_path, content):
    archive = tmp_path / "a.part"
    archive.write_bytes(content)
    with pytest.raises(SourceError):
        unpack(archive, tmp_path / NAME, NAME)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.part"]


@pytest.mark.usefixtures("account")
def test_unknown_checksums_and_products_without_archive(tmp_path):
    with serving(Service()) as server:
        with pytest.raises(SourceError, match="unknown kind"):
            fetcher(server.url, tmp_path).fetch(product(checksum="9999" + "0" * 32))
        with pytest.raises(SourceError, match="unknown kind"):  # in recorded items: md5 by name, 32 bytes long
            fetcher(server.url, tmp_path).fetch(product(checksum="d50120" + "0" * 64))
        assert not [request for request in server.requests if request.method == "GET"]  # nothing was downloaded
        bare = Product(NAME, "", datetime(2022, 5, 1, tzinfo=UTC), "33UXP", 1, "05.10", "EPSG:32633", {}, {})
        with pytest.raises(SourceError, match="gives no archive"):
            fetcher(server.url, tmp_path).fetch(bare)


@pytest.mark.usefixtures("account")
def test_too_little_space_is_told_before_the_download(tmp_path):
    with serving(Service()) as server:
        with pytest.raises(StorageError, match=r"free some space or set paths\.cache"):
            fetcher(server.url, tmp_path).fetch(product(size=10**18))
        assert not downloads(server)


@pytest.mark.usefixtures("account")
def test_a_disk_that_fills_up_during_the_download(tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, os.strerror(28))

    with serving(Service()) as server:
        monkeypatch.setattr(fetch.Fetcher, "_transfer", full)
        with pytest.raises(StorageError, match="free some space"):
            fetcher(server.url, tmp_path).fetch(product())
    assert not list((tmp_path / ".parts").glob("*.part"))


@pytest.mark.usefixtures("account")
def test_no_secret_in_what_is_written_or_shown(tmp_path, capsys):
    with serving(Service()) as server:
        tokens = TokenManager(f"{server.url}/token")
        Fetcher(server.url, tokens, tmp_path).fetch(product())
    shown = capsys.readouterr()
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    for secret in ("secret", "token1"):
        assert secret not in shown.out + shown.err + repr(tokens) + json.dumps(product().to_dict())
        assert not any(secret.encode() in content for content in written)

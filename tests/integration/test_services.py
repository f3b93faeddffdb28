"""The loopback services as a downloader meets them: tokens, products, files, ranges; and how they start and end."""

import hashlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from io import BytesIO
from urllib.parse import urlsplit

import psutil
import pystac_client
import pytest
import requests
from services_support import small_region

from cropseg.core.errors import ConfigError, InputError
from data_prep.simulate import services
from data_prep.simulate.file_server import Account, Tokens
from data_prep.simulate.services import serve


@pytest.fixture(scope="module")
def region(tmp_path_factory):
    return small_region(tmp_path_factory.mktemp("region"))


@pytest.fixture(scope="module")
def endpoints(region):
    with serve(region, token_seconds=120) as running:
        yield running


@pytest.fixture(scope="module")
def items(endpoints):
    return list(pystac_client.Client.open(endpoints.stac_url).search().items_as_dicts())


def ask_token(endpoints, **form) -> requests.Response:
    fields = {"grant_type": "password", "client_id": "cdse-public", "username": endpoints.username}
    return requests.post(endpoints.token_url, data={**fields, "password": endpoints.password, **form}, timeout=30)


@pytest.fixture(scope="module")
def bearer(endpoints):
    return {"Authorization": f"Bearer {ask_token(endpoints).json()['access_token']}"}


def test_both_listen_on_loopback_alone(endpoints):
    for url in (endpoints.stac_url, endpoints.download_url, endpoints.token_url):
        assert urlsplit(url).hostname == "127.0.0.1"
    assert endpoints.token_url.endswith("/auth/realms/CDSE/protocol/openid-connect/token")


def test_a_product_found_in_the_catalogue_is_the_one_that_is_downloaded(endpoints, items, bearer, region):
    assert len(items) == 3
    for item in items:
        asset = item["assets"]["Product"]
        assert asset["href"].startswith(f"{endpoints.download_url}/odata/v1/Products(")
        answer = requests.get(asset["href"], headers=bearer, timeout=30)
        assert answer.status_code == 200
        assert int(answer.headers["content-length"]) == len(answer.content) == asset["file:size"]
        assert asset["file:checksum"] == "d50110" + hashlib.md5(answer.content).hexdigest()
        assert answer.content == (region / "products" / f"{item['id']}.zip").read_bytes()
        assert zipfile.ZipFile(BytesIO(answer.content)).testzip() is None


def test_every_file_of_a_product_has_an_address_of_its_own(items, bearer):
    for key, asset in items[0]["assets"].items():
        if key == "Product":
            continue
        answer = requests.get(asset["alternate"]["https"]["href"], headers=bearer, timeout=30)
        assert answer.status_code == 200, key
        assert len(answer.content) == asset["file:size"]
        prefix, digest = ("d50110", "md5") if asset["file:checksum"].startswith("d50110") else ("1620", "sha3_256")
        assert asset["file:checksum"] == prefix + hashlib.new(digest, answer.content).hexdigest()


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=100-299", 100, 299),
        ("bytes=100-", 100, None),
        ("bytes=-50", -50, None),
        ("bytes=0-999999999", 0, None),
    ],
)
@pytest.mark.parametrize("single_file", [False, True])
def test_ranges(items, bearer, asked, first, last, single_file):
    assets = items[0]["assets"]
    href = assets["SCL_20m"]["alternate"]["https"]["href"] if single_file else assets["Product"]["href"]
    whole = requests.get(href, headers=bearer, timeout=30).content
    answer = requests.get(href, headers={**bearer, "Range": asked}, timeout=30)
    start = first if first >= 0 else len(whole) + first
    end = len(whole) - 1 if last is None else last
    assert answer.status_code == 206
    assert answer.content == whole[start : end + 1]
    assert answer.headers["content-range"] == f"bytes {start}-{end}/{len(whole)}"


def test_ranges_that_cannot_be(items, bearer):
    href = items[0]["assets"]["Product"]["href"]
    size = items[0]["assets"]["Product"]["file:size"]
    beyond = requests.get(href, headers={**bearer, "Range": f"bytes={size}-"}, timeout=30)
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{size}")
    for ignored in ("bytes=-", "lines=1-2", "bytes=0-1,5-6"):
        assert requests.get(href, headers={**bearer, "Range": ignored}, timeout=30).status_code == 200
    changed = {"Range": "bytes=0-9", "If-Range": '"another version"'}
    assert requests.get(href, headers={**bearer, **changed}, timeout=30).status_code == 200
    head = requests.head(href, headers=bearer, timeout=30)
    assert (int(head.headers["content-length"]), head.content) == (size, b"")
    same = {"Range": "bytes=0-9", "If-Range": head.headers["etag"]}
    assert requests.get(href, headers={**bearer, **same}, timeout=30).status_code == 206


def test_nothing_is_given_without_a_good_token(items):
    href = items[0]["assets"]["Product"]["href"]
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic ZGVtbzpkZW1v"}):
        answer = requests.get(href, headers=headers, timeout=30)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"


def test_token_fields_are_cdses(endpoints, items):
    answer = ask_token(endpoints)
    assert answer.status_code == 200
    assert {"access_token", "expires_in", "refresh_token", "refresh_expires_in", "token_type"} <= set(answer.json())
    assert answer.json()["expires_in"] == 120
    renewed = ask_token(endpoints, grant_type="refresh_token", refresh_token=answer.json()["refresh_token"])
    assert renewed.status_code == 200
    headers = {"Authorization": f"Bearer {renewed.json()['access_token']}", "Range": "bytes=0-1"}
    assert requests.get(items[0]["assets"]["Product"]["href"], headers=headers, timeout=30).content == b"PK"
    spent = ask_token(endpoints, grant_type="refresh_token", refresh_token=answer.json()["refresh_token"])
    assert spent.status_code == 400


@pytest.mark.parametrize(
    ("form", "status", "error"),
    [
        ({"password": "wrong"}, 401, "invalid_grant"),
        ({"username": "someone"}, 401, "invalid_grant"),
        ({"client_id": "other"}, 401, "invalid_client"),
        ({"grant_type": "magic"}, 400, "unsupported_grant_type"),
        ({"grant_type": "refresh_token", "refresh_token": "x"}, 400, "invalid_grant"),
    ],
)
def test_wrong_credentials_are_refused(endpoints, form, status, error):
    answer = ask_token(endpoints, **form)
    assert (answer.status_code, answer.json()["error"]) == (status, error)


def test_tokens_expire(monkeypatch):
    tokens = Tokens(Account("a", "b", token_seconds=10, refresh_seconds=20))
    now = time.monotonic()
    given = tokens.grant()
    assert tokens.allows(f"Bearer {given['access_token']}")
    monkeypatch.setattr("data_prep.simulate.file_server.time.monotonic", lambda: now + 11)
    assert not tokens.allows(f"Bearer {given['access_token']}")
    assert tokens.renew(given["refresh_token"]) is not None
    later = tokens.grant()
    monkeypatch.setattr("data_prep.simulate.file_server.time.monotonic", lambda: now + 40)
    assert tokens.renew(later["refresh_token"]) is None


def test_what_is_not_there_is_404(endpoints, items, bearer):
    name, good = items[0]["id"], items[0]["assets"]["Product"]["href"]
    root = f"{endpoints.download_url}/odata/v1/Products"
    missing = [
        f"{root}(00000000-0000-0000-0000-000000000000)/$value",
        f"{root}(x)/$value",
        good.replace("/$value", f"/Nodes({name}.SAFE)/Nodes(nothing.xml)/$value"),
        good.replace("/$value", f"/Nodes({name}.SAFE)/Nodes(..)/Nodes(..)/$value"),
        good.replace("/$value", ""),
    ]
    for address in missing:
        assert requests.get(address, headers=bearer, timeout=30).status_code == 404, address


def test_a_lost_download_can_be_resumed(items, bearer):
    asset = items[0]["assets"]["Product"]
    parts = urlsplit(asset["href"])
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    connection.request("GET", parts.path, headers=bearer)
    start = connection.getresponse().read(1000)
    connection.close()
    rest = requests.get(asset["href"], headers={**bearer, "Range": "bytes=1000-"}, timeout=30).content
    assert asset["file:checksum"] == "d50110" + hashlib.md5(start + rest).hexdigest()


# ---- starting and ending


def reachable(url: str) -> bool:
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname, parts.port), timeout=2).close()
    except OSError:
        return False
    return True


def in_use(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_services_end_with_their_block_also_after_an_error_and_the_port_is_free_again(region):
    # Below the ports that the system gives to whoever asks for any, so that no other test takes them in between.
    port = next(p for p in range(20_000 + os.getpid() % 10_000, 32_000, 2) if not in_use(p) and not in_use(p + 1))
    with pytest.raises(ZeroDivisionError), serve(region, port=port, username="me", password="secret") as running:
        first = running
        assert reachable(running.stac_url)
        assert (running.username, running.password) == ("me", "secret")
        # An open connection holds up neither the end nor the next start.
        idle = requests.Session()
        idle.get(running.stac_url, timeout=30)
        _ = 1 / 0
    idle.close()
    assert not reachable(first.stac_url)
    assert not reachable(first.download_url)
    with serve(region, port=port) as again:
        assert urlsplit(again.stac_url).port == port
        assert urlsplit(again.download_url).port == port + 1


def test_a_port_in_use_is_told_with_the_remedy(region):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}.*choose another"), serve(region, port=port):
            pass
    with pytest.raises(ConfigError, match="99999"), serve(region, port=99999):
        pass


def test_a_folder_that_is_no_region_is_told(tmp_path):
    with pytest.raises(InputError, match=r"items\.json"), serve(tmp_path / "nothing"):
        pass


def test_a_catalogue_whose_product_is_gone_is_told_before_anything_is_served(tmp_path):
    region = small_region(tmp_path, 1)
    gone = next((region / "products").iterdir())
    gone.unlink()
    with pytest.raises(services.SourceError, match=gone.name), serve(region):
        pass


def start_by_hand(region, *options: str) -> subprocess.Popen:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job hands that down to its children
        signal.signal(signal.SIGINT, signal.default_int_handler)
    command = [sys.executable, "-m", "data_prep.simulate.services", str(region), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_until(condition, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_by_hand_until_ctrl_c_or_a_killed_parent(region, how):
    with start_by_hand(region) as process:
        lines = [process.stdout.readline() for _ in range(5)]
        assert lines[0].startswith("STAC API   http://127.0.0.1:")
        url = lines[0].split()[-1]
        assert requests.get(url, timeout=30).ok
        (child,) = psutil.Process(process.pid).children()
        # Ctrl-C reaches every process of the terminal, the child too.
        if how == signal.SIGINT:
            os.killpg(process.pid, how)
        else:
            process.send_signal(how)
        process.wait(30)
        assert wait_until(lambda: not reachable(url))
        assert wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
        assert process.returncode == (0 if how == signal.SIGINT else -how)
        assert process.stderr.read() == ""


def test_by_hand_a_wrong_folder_is_one_line_and_exit_code_2(tmp_path):
    with start_by_hand(tmp_path / "nothing") as process:
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (2, "")
    assert errors.count("\n") == 1
    assert "run simulate.py first" in errors


def test_main_in_process(capsys, tmp_path):
    assert services.main([str(tmp_path)]) == 2
    assert "not a simulated region" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        services.main([])
    assert stopped.value.code == 2

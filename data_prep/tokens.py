"""Logging in at the Copernicus Data Space: credentials from the environment or netrc, and access tokens.

A credential is never a config value, so it reaches no log, no config dump and no dataset.
"""

from __future__ import annotations

import netrc
import os
import threading
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import requests

from cropseg.core.errors import InputError, SourceError

USERNAME, PASSWORD, TOTP = "CDSE_USERNAME", "CDSE_PASSWORD", "CDSE_TOTP"
_REMEDY = f"set {USERNAME} and {PASSWORD} to a valid account, or write it to ~/.netrc for"


@dataclass(frozen=True)
class Credentials:
    """An account.

    Attributes:
        username: Its name.
        password: Its password; shown nowhere.
        totp: The second factor of the moment, if the account has one.
    """

    username: str = field(repr=False)
    password: str = field(repr=False)
    totp: str | None = field(default=None, repr=False)

    @classmethod
    def find(cls, token_url: str) -> Credentials:
        """Read them from the environment or, failing that, from netrc under the host of ``token_url``.

        Raises:
            InputError: There are none, or netrc cannot be read.
        """
        host = urlsplit(token_url).hostname or ""
        username, password = os.environ.get(USERNAME), os.environ.get(PASSWORD)
        if username and password:
            return cls(username, password, os.environ.get(TOTP))
        try:
            entry = netrc.netrc(os.environ.get("NETRC")).authenticators(host)
        except FileNotFoundError:
            entry = None
        except (netrc.NetrcParseError, PermissionError):
            # The parser's message names file and line, and quotes at most one token, which may be a password.
            raise InputError("netrc cannot be read", None, f"mend the file, or set {USERNAME} and {PASSWORD}") from None
        if entry is None or not entry[0] or not entry[2]:
            raise InputError(f"no account for {host}", None, f"{_REMEDY} {host}")
        return cls(entry[0], entry[2], os.environ.get(TOTP))


class TokenManager:
    """Keeps an access token valid; safe to use from several threads.

    Args:
        token_url: The OpenID Connect token address.
        credentials: The account; looked for at the first request if None, see :meth:`Credentials.find`.
        client_id: Public client of the identity service.
        margin_s: How long before its end a token is renewed, in seconds.
        timeout_s: Longest wait for an answer in seconds.
        attempts: How often a failing service is asked.
        backoff_s: First pause between attempts in seconds; doubles each time.
    """

    def __init__(
        self,
        token_url: str,
        credentials: Credentials | None = None,
        *,
        client_id: str = "cdse-public",
        margin_s: float = 30.0,
        timeout_s: float = 60.0,
        attempts: int = 5,
        backoff_s: float = 1.0,
    ) -> None:
        self._url = token_url
        self._credentials = credentials
        self._client_id = client_id
        self._margin = margin_s
        self._timeout = timeout_s
        self._attempts = attempts
        self._backoff = backoff_s
        self._lock = threading.Lock()
        self._access: str | None = None
        self._refresh: str | None = None
        self._good_until = 0.0
        self._refresh_until = 0.0

    def token(self, *, rejected: str | None = None) -> str:
        """A valid access token.

        Args:
            rejected: A token that the server has just refused: it is not given again.

        Raises:
            InputError: No credentials.
            SourceError: The identity service refuses them or does not answer.
        """
        with self._lock:
            if self._access is None or self._access == rejected or time.monotonic() >= self._good_until:
                self._renew()
            assert self._access is not None  # _renew sets it or raises
            return self._access

    def _renew(self) -> None:
        if self._refresh is not None and time.monotonic() < self._refresh_until:
            answer = self._ask({"grant_type": "refresh_token", "refresh_token": self._refresh})
            if answer is not None:
                return self._keep(answer)
        self._credentials = self._credentials or Credentials.find(self._url)
        form = {
            "grant_type": "password",
            "username": self._credentials.username,
            "password": self._credentials.password,
        }
        if self._credentials.totp:
            form["totp"] = self._credentials.totp
        answer = self._ask(form)
        if answer is None:
            host = urlsplit(self._url).hostname
            raise SourceError(f"{host} refuses the account", None, f"{_REMEDY} {host}")
        return self._keep(answer)

    def _ask(self, form: dict[str, str]) -> dict[str, object] | None:
        """The answer to one grant; None if it is refused."""
        problem = ""
        for attempt in range(self._attempts):
            if attempt:
                time.sleep(self._backoff * 2 ** (attempt - 1))
            try:
                # `auth` that does nothing keeps requests from sending netrc's entry as a Basic header.
                answer = requests.post(
                    self._url, data={**form, "client_id": self._client_id}, timeout=self._timeout, auth=lambda r: r
                )
            except requests.RequestException as error:
                problem = type(error).__name__
                continue
            if answer.status_code in (400, 401, 403):
                return None
            if answer.status_code == 200:
                try:
                    content = answer.json()
                except ValueError:
                    content = None
                if isinstance(content, dict) and content.get("access_token"):
                    return content
                problem = "it answered no token"
            else:
                problem = f"it answered {answer.status_code}"
        raise SourceError(
            f"no token from {self._url} ({problem})", None, "check source.token_url and the network, and try again"
        ) from None

    def _keep(self, answer: dict[str, object]) -> None:
        now = time.monotonic()
        self._access = str(answer["access_token"])
        self._good_until = now + _seconds(answer.get("expires_in"), 60.0) - self._margin
        refresh = answer.get("refresh_token")
        self._refresh = str(refresh) if refresh else None
        self._refresh_until = now + _seconds(answer.get("refresh_expires_in"), 60.0) - self._margin


def _seconds(value: object, default: float) -> float:
    return float(value) if isinstance(value, int | float) else default

"""HTTP calls of remote scorers: a timeout for each, and another try when the server may recover."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlsplit

import httpx2

#: Answers that another try may change; any other error answer is final.
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class RemoteError(RuntimeError):
    """A server did not answer, refused, or answered what cannot be used; the message names it and the cause."""


class Caller:
    """Calls one server.

    Args:
        url: of the server, without the paths that are called.
        timeout: seconds to wait for a connection, and for each part of an answer.
        retries: further tries after the first.
        wait: seconds before the second try; doubled before each further one.
        headers: of every request.
        connections: calls at a time.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        url: str,
        timeout: float,
        retries: int,
        wait: float = 1.0,
        headers: dict[str, str] | None = None,
        connections: int = 10,
    ) -> None:
        if urlsplit(url).scheme not in ("http", "https"):
            raise ValueError(f"url is {url!r}; give such as http://127.0.0.1:8765")
        if timeout <= 0 or retries < 0 or wait < 0:
            raise ValueError(
                f"timeout is {timeout}, retries {retries}, wait {wait}; give a timeout > 0, others >= 0"
            )
        self.url, self._retries, self._wait = url.rstrip("/"), retries, wait
        self._client = httpx2.Client(
            timeout=timeout,
            headers=headers,
            limits=httpx2.Limits(max_connections=connections),
            trust_env=urlsplit(url).hostname not in _LOOPBACK,  # no proxy between this machine and itself
        )

    def call(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        """The JSON object that the server answers.

        Raises:
            RemoteError: the last try failed too, or the answer is no JSON object.
        """
        problem = ""
        for attempt in range(self._retries + 1):
            if attempt:
                time.sleep(self._wait * 2 ** (attempt - 1))
            try:
                response = self._client.request(method, self.url + path, **request)
            except httpx2.RequestError as error:
                problem = f"{type(error).__name__}: {error}".rstrip(": ")
                continue
            if response.status_code == 200:
                return self._content(response)
            problem = f"HTTP {response.status_code}: {_told(response)}"
            if response.status_code not in _PASSING:
                raise RemoteError(f"{self.url}{path} refused: {problem}")
        raise RemoteError(f"{self.url}{path} failed {self._retries + 1} times; the last time: {problem}")

    def _content(self, response: httpx2.Response) -> dict[str, Any]:
        try:
            content = response.json()
        except ValueError as error:
            raise RemoteError(f"{response.url} answered no JSON: {_shown(response.text)}") from error
        if not isinstance(content, dict):
            raise RemoteError(f"{response.url} answered no JSON object: {_shown(response.text)}")
        return content


def _told(response: httpx2.Response) -> str:
    """What the server says is wrong."""
    try:
        return _shown(str(response.json()["detail"]))
    except (ValueError, KeyError, TypeError):
        return _shown(response.text)


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return line[:300] + ("..." if len(line) > 300 else "") or "nothing"

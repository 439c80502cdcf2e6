"""RunPod's REST API v2, as far as a training job needs it: https://api.runpod.io/v2/openapi.json.

Reads and deletes are repeated on network errors, 5xx and 429. A create is never repeated here:
after most failures the pod may exist, and cost money. Replies may have unknown fields and
statuses. No error contains the key or the value of a variable.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import ValidationError
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt

from deploy.runpod.errors import (
    BY_STATUS,
    ApiError,
    BrokenRule,
    NoCapacity,
    NotThere,
    RateLimited,
    Unanswered,
)
from deploy.runpod.models import Gpu, LogLine, Pod, Reply, Secret
from deploy.runpod.pages import read_pages

API = "https://api.runpod.io/v2"
TIMEOUT = 30.0
"""Seconds for one answer."""
LOG_TIMEOUT = 300.0
"""Seconds without a line after which a log's stream counts as cut."""
ATTEMPTS = 5
"""Tries of a request that may be repeated."""
LONGEST_WAIT = 30.0
"""Most seconds between two tries, whatever Retry-After says."""
NO_CAPACITY = (
    "no longer any instances available",
    "no instances available",
    "with enough disk space",
    "does not have the resources to deploy your pod",
)
"""Parts of a 400's text that mean: no machine now, or not there. All others name a broken rule."""


class RunPod:
    """A client of the API with an API key; use it in a `with` block."""

    def __init__(self, key: str, url: str = API) -> None:
        self.key = key
        self._client = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key}", "User-Agent": "evengrad"},
            timeout=TIMEOUT,
            event_hooks={"response": [self._note_time]},
        )
        self._skew: timedelta | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    # --- pods -----------------------------------------------------------------------------------

    def create(self, body: Mapping[str, Any], secrets: Collection[str] = ()) -> Pod:
        """Create a pod; never repeats the request.

        secrets: values in the body that no error may contain. Raises NoCapacity, BrokenRule,
        BadCredentials, NoBalance, NotAllowed, RateLimited, after all of which there is no pod; and
        Unanswered, after which it may exist: look for its name before anything else.
        """
        return _parsed(Pod, self._send("POST", "pods", secrets, json=dict(body)))

    def pods(self) -> list[Pod]:
        """All pods of the account, from every page; raises ApiError, never returns a part."""
        return self._list(Pod, "pods", "pods")

    def pod(self, pod: str) -> Pod:
        """One pod; raises NotThere, perhaps only for now."""
        return _parsed(Pod, self._repeated("GET", f"pods/{quote(pod, safe='')}"))

    def delete(self, pod: str) -> bool:
        """Delete a pod; returns whether there was one. Raises ApiError."""
        with suppress(NotThere):
            self._repeated("DELETE", f"pods/{quote(pod, safe='')}")
            return True
        return False

    def stop(self, pod: str) -> None:
        """Stop a pod's container, with SIGTERM first; its volume still costs money."""
        self._repeated("POST", f"pods/{quote(pod, safe='')}/action", json={"action": "stop"})

    # --- the account and the catalogue ----------------------------------------------------------

    def secret_names(self) -> set[str]:
        """The names of the account's secrets; raises ApiError, where the API has no such list."""
        return {secret.name for secret in self._list(Secret, "account/secrets", "secrets")}

    def gpus(self, cloud: str, count: int, min_cuda: str) -> list[Gpu]:
        """The catalogue's prices and stock, for pods with so many GPUs in a cloud."""
        query = {
            "include": "AVAILABILITY",
            "product": "POD",
            "count": str(count),
            "cloud": cloud,
            "minCudaVersion": min_cuda,
        }
        return self._list(Gpu, "catalog/gpus", "gpus", query)

    def now(self) -> datetime:
        """The time by RunPod's clock, as its last answer had it; else by this machine's."""
        return datetime.now(UTC) + (self._skew or timedelta())

    @property
    def skew(self) -> timedelta | None:
        """How far RunPod's clock is ahead of this machine's; None if no answer had a time."""
        return self._skew

    def _note_time(self, answer: httpx.Response) -> None:
        with suppress(TypeError, ValueError):
            date = parsedate_to_datetime(answer.headers.get("Date", ""))
            self._skew = date.astimezone(UTC) - datetime.now(UTC)

    # --- logs -----------------------------------------------------------------------------------

    def log(self, pod: str, source: str, tail: int, after: str | None = None) -> Iterator[LogLine]:
        """The lines of a pod's log, `container` or `system`, as they come.

        It ends when the stream is cut. after: the id of the last line that was read.
        """
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
        query = {"source": source, "tail": str(tail)}
        path = f"pods/{quote(pod, safe='')}/logs"
        try:
            with self._client.stream(
                "GET", path, params=query, headers=headers, timeout=LOG_TIMEOUT
            ) as answer:
                if not answer.is_success:
                    answer.read()
                    raise _refusal("GET", path, answer).redact([self.key])
                yield from _events(answer.iter_lines())
        except httpx.HTTPError as error:
            raise Unanswered(f"GET {path}", type(error).__name__) from None

    # --- requests -------------------------------------------------------------------------------

    def _list(
        self, kind: type[Kind], path: str, name: str, query: Mapping[str, str] | None = None
    ) -> list[Kind]:
        """Every row of a list, from all of its pages; raises ApiError."""
        rows = read_pages(
            f"GET {path}", name, query or {},
            lambda asked: self._repeated("GET", path, params=dict(asked)),
        )  # fmt: skip
        return [_parsed(kind, row) for row in rows]

    def _repeated(self, method: str, path: str, **more: Any) -> Any:
        """The reply's JSON, after several tries if need be."""
        retrying = Retrying(
            retry=retry_if_exception_type((RateLimited, Unanswered)),
            stop=stop_after_attempt(ATTEMPTS),
            wait=_wait,
            reraise=True,
        )
        return retrying(self._send, method, path, **more)

    def _send(self, method: str, path: str, secrets: Collection[str] = (), **more: Any) -> Any:
        """The reply's JSON; None for an empty one. secrets: values that no error may contain."""
        try:
            answer = self._client.request(method, path, **more)
        except httpx.HTTPError as error:  # whose text may hold the request
            raise Unanswered(f"{method} {path}", _reason(error, self._client)) from None
        if not answer.is_success:
            raise _refusal(method, path, answer).redact([self.key, *secrets])
        if not answer.content:
            return None
        try:
            return answer.json()
        except (ValueError, RecursionError):
            raise Unanswered(f"{method} {path}", f"{answer.status_code} without JSON") from None


def _reason(error: httpx.HTTPError, client: httpx.Client) -> str:
    """Why there was no answer, in words."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return f"no connection to {client.base_url.host}; check network and proxy"
    if isinstance(error, httpx.TimeoutException):
        return f"no answer of {client.base_url.host} in {TIMEOUT:g} s"
    return f"the connection broke ({type(error).__name__})"


Kind = TypeVar("Kind", bound=Reply)


def _parsed(kind: type[Kind], reply: Any) -> Kind:
    """A part of a reply; raises Unanswered, which names fields and no values: some are secrets."""
    try:
        return kind.model_validate(reply)
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, e["loc"])) or "all of it" for e in error.errors())
        raise Unanswered(kind.__name__, f"a reply without a usable {fields}") from None


def _refusal(method: str, path: str, answer: httpx.Response) -> ApiError:
    """The error that an answer stands for, with the API's own message."""
    request, status = f"{method} {path}", answer.status_code
    detail = _message(answer)
    if request_id := answer.headers.get("x-request-id"):
        detail = f"{detail} (request {request_id})"
    if status == 400 and any(text in detail.lower() for text in NO_CAPACITY):
        return NoCapacity(request, detail)
    if status == httpx.codes.GONE:
        return ApiError(request, f"this API is no more; update evengrad. {detail}")
    # After a create only the documented statuses are sure: after any other the pod may exist.
    unknown = Unanswered if status >= 500 or request == "POST pods" else BrokenRule
    kind = BY_STATUS.get(status, unknown)
    refusal = kind(request, detail, _seconds(answer.headers.get("Retry-After")))
    if isinstance(refusal, BrokenRule):
        refusal.malformed = status == 422
    return refusal


def _message(answer: httpx.Response) -> str:
    """What the server says of its refusal, in one line: RFC 9457, other JSON, or plain text."""
    text = ""
    with suppress(ValueError, RecursionError):
        problem = answer.json()
        if isinstance(problem, dict):
            names = ("detail", "message", "error", "title")
            text = next((str(problem[name]) for name in names if problem.get(name)), "")
    if not text and answer.headers.get("Content-Type", "").startswith("text/plain"):
        text = answer.text
    return " ".join(text.split()) or f"{answer.status_code} without a message"


def _seconds(text: str | None) -> float | None:
    """Retry-After in seconds; None if it is a date or missing."""
    try:
        return max(0.0, float(text or ""))
    except ValueError:
        return None


def _wait(state: RetryCallState) -> float:
    """Seconds to the next try: what the API asks for, else longer each time."""
    fault = state.outcome.exception() if state.outcome else None
    asked = fault.wait if isinstance(fault, ApiError) else None
    return min(LONGEST_WAIT, asked if asked is not None else 2.0 ** (state.attempt_number - 1))


def _events(lines: Iterator[str]) -> Iterator[LogLine]:
    """Server-sent events with JSON data; others, such as keep-alives, are skipped."""
    last: str | None = None
    data: list[str] = []
    for line in lines:
        name, _, value = line.partition(":")
        if line == "" and data:
            with suppress(ValueError, RecursionError):
                parsed = json.loads("\n".join(data))
                yield LogLine(last, parsed if isinstance(parsed, dict) else {"line": parsed})
            data = []
        elif name == "id":
            last = value.removeprefix(" ")
        elif name == "data":
            data.append(value.removeprefix(" "))

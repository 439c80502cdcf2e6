"""RunPod's REST API v2, as far as a training job needs it: https://api.runpod.io/v2/openapi.json.

Reads and deletes are repeated on network errors, 5xx and 429. A create never is here: after most
failures the pod may exist, and bill. Replies may
hold fields and statuses that are not known here. No error tells the key or a variable's value.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, NamedTuple, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
)
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt

API = "https://api.runpod.io/v2"
TIMEOUT = 30.0
"""Seconds for one answer."""
SILENCE = 300.0
"""Seconds without a line after which a log's stream counts as cut."""
ATTEMPTS = 5
"""Of what may be repeated."""
LONGEST_DETAIL = 300
"""Characters of what the API says of a refusal."""
LONGEST_WAIT = 30.0
"""Seconds between two of them, whatever Retry-After asks for."""
NO_CAPACITY = (
    "no longer any instances available",
    "no instances available",
    "with enough disk space",
    "does not have the resources to deploy your pod",
)
"""In the text of a 400 that means: not now, or not there. All others name a broken rule."""
GONE = 404
OURS = ("EVENGRAD_STORE", "EVENGRAD_NAME", "EVENGRAD_DEADLINE", "RUN_ID")
"""Of a pod's echoed variables those that tell its run; the others, maybe secrets, are dropped."""


class ApiError(Exception):
    """What the API refused or did not answer; one line, without secrets."""

    def __init__(self, what: str, detail: str, wait: float | None = None) -> None:
        super().__init__(f"{what}: {detail}")
        self.detail = detail
        """Without the request."""
        self.wait = wait
        """Seconds that the API asked to wait for."""

    def hide(self, secrets: Collection[str]) -> None:
        """Take values out of the text, and shorten it only then."""
        what, detail = str(self.args[0]).removesuffix(self.detail), self.detail
        for secret in sorted({" ".join(s.split()) for s in secrets} - {""}, key=len, reverse=True):
            detail = detail.replace(secret, "<redacted>")
        self.detail = detail[:LONGEST_DETAIL]
        self.args = (what + self.detail,)


class NoCapacity(ApiError):
    """No machine of that kind is free; another candidate may be."""


class BrokenRule(ApiError):
    """The request breaks a rule of the API (400, 422); repeating it is useless."""

    contract = False
    """Whether the request itself is malformed (422), for whichever GPU."""


class BadCredentials(ApiError):
    """The key is missing, wrong or expired (401)."""


class NoBalance(ApiError):
    """The account's balance does not suffice (402)."""


class NotAllowed(ApiError):
    """The key may not do this (403)."""


class RateLimited(ApiError):
    """Too many requests (429); refused before anything happened."""


class NotThere(ApiError):
    """404. Right after a create it may be lag."""


class Unanswered(ApiError):
    """No answer, a 5xx or one that is no JSON: what was asked for may have happened."""


BY_STATUS: dict[int, type[ApiError]] = {
    400: BrokenRule,
    401: BadCredentials,
    402: NoBalance,
    403: NotAllowed,
    GONE: NotThere,
    422: BrokenRule,
    429: RateLimited,
}


def _or_none(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    """What cannot be read is not there: a reply of a later day must not hide a pod."""
    try:
        return read(value)
    except ValidationError:
        return None


def _or_default(value: Any, read: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    found = _or_none(value, read)
    return DEFAULTS[info.field_name or ""] if found is None else found


DEFAULTS: dict[str, Any] = {"name": "", "status": "UNKNOWN", "variables": {}}
Lenient = WrapValidator(_or_none)
Defaulting = WrapValidator(_or_default)


class Reply(BaseModel):
    """A part of a reply; what is not known of it is left out."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class PodGpu(Reply):
    """What a pod has."""

    id: str
    count: int = 1


class Pod(Reply):
    """A pod; only its id is relied on."""

    id: str
    name: Annotated[str, Defaulting] = ""
    status: Annotated[str, Defaulting] = "UNKNOWN"
    """PROVISIONING, STARTING, RUNNING, EXITED, ERROR, TERMINATED, or one of a later day."""
    cost: Annotated[float | None, Lenient] = None
    """USD per hour, for the whole pod."""
    gpu: Annotated[PodGpu | None, Lenient] = None
    cloud: Annotated[str | None, Lenient] = None
    image: Annotated[str | None, Lenient] = None
    created: Annotated[datetime | None, Lenient] = Field(None, alias="createdAt")
    variables: Annotated[dict[str, str], Defaulting] = Field({}, alias="env")
    """Those of OURS."""

    @field_validator("variables", mode="before")
    @classmethod
    def _ours(cls, env: Any) -> dict[str, str]:
        found = env.items() if isinstance(env, dict) else ()
        return {name: value for name, value in found if name in OURS and isinstance(value, str)}

    @field_validator("created")
    @classmethod
    def _in_utc(cls, told: datetime | None) -> datetime | None:
        return told.replace(tzinfo=told.tzinfo or UTC) if told is not None else None


class ByCloud(Reply):
    """A number for each cloud; None or 0 where there is nothing."""

    secure: Annotated[float | None, Lenient] = None
    community: Annotated[float | None, Lenient] = None

    def of(self, cloud: str) -> float | None:
        """For SECURE or COMMUNITY."""
        return self.secure if cloud == "SECURE" else self.community


class Gpu(Reply):
    """A row of the catalogue."""

    id: str
    memory: Annotated[int | None, Lenient] = None
    """GB."""
    price: ByCloud = ByCloud()
    """USD per hour for one."""
    most: ByCloud = Field(ByCloud(), alias="maxCount")
    """In one pod."""
    availability: Annotated[str | None, Lenient] = None
    """NONE, LOW, MEDIUM, HIGH; null where it was not asked for."""


class Logged(NamedTuple):
    """A line of a pod's log."""

    id: str | None
    """To go on after it."""
    data: dict[str, Any]


class RunPod:
    """A client; use it as a context.

    key: an API key. url: of the API.
    """

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

        secrets: values in the body that no error may tell. Raises NoCapacity, BrokenRule,
        BadCredentials, NoBalance, NotAllowed, RateLimited, after all of which there is no pod; and
        Unanswered, after which it may exist: look for its name before anything else.
        """
        try:
            return _parsed(Pod, self._ask("POST", "pods", json=dict(body)))
        except ApiError as error:
            error.hide({*secrets, self.key})
            raise

    def pods(self) -> list[Pod]:
        """All pods of the account, every page.

        Raises ApiError: a failed listing is not an empty one.
        """
        found: list[Pod] = []
        cursor: str | None = None
        while True:
            page = self._read("pods", {"cursor": cursor} if cursor else {})
            rows = page.get("pods") if isinstance(page, dict) else None
            if not isinstance(rows, list):
                raise Unanswered("GET pods", "the reply has no list of pods")
            found += [_parsed(Pod, row) for row in rows if isinstance(row, dict) and row.get("id")]
            cursor = page.get("nextCursor") or page.get("cursor")
            if not cursor:
                return found

    def pod(self, pod: str) -> Pod:
        """One pod; raises NotThere, once or for good."""
        return _parsed(Pod, self._read(f"pods/{quote(pod, safe='')}"))

    def delete(self, pod: str) -> bool:
        """End a pod for good; returns whether there was one. Raises ApiError."""
        with suppress(NotThere):
            self._asked(REPEATED, "DELETE", f"pods/{quote(pod, safe='')}")
            return True
        return False

    def stop(self, pod: str) -> None:
        """Have a pod's container ended, SIGTERM first; it is billed for its volume still."""
        path = f"pods/{quote(pod, safe='')}/action"
        self._asked(REPEATED, "POST", path, json={"action": "stop"})

    # --- the catalogue --------------------------------------------------------------------------

    def gpus(self, cloud: str, count: int, min_cuda: str) -> list[Gpu]:
        """What pods with so many GPUs cost now in a cloud, and how many there are."""
        query = {
            "include": "AVAILABILITY",
            "product": "POD",
            "count": str(count),
            "cloud": cloud,
            "minCudaVersion": min_cuda,
        }
        page = self._read("catalog/gpus", query)
        rows = page.get("gpus") if isinstance(page, dict) else None
        if not isinstance(rows, list):
            raise Unanswered("GET catalog/gpus", "the reply has no list of GPUs")
        return [_parsed(Gpu, row) for row in rows if isinstance(row, dict) and row.get("id")]

    def now(self) -> datetime:
        """The time by RunPod's clock, as its last answer told it; else this machine's."""
        return datetime.now(UTC) + (self._skew or timedelta())

    @property
    def skew(self) -> timedelta | None:
        """How far RunPod's clock is ahead of this machine's; None where no answer told it."""
        return self._skew

    def _note_time(self, answer: httpx.Response) -> None:
        with suppress(TypeError, ValueError):
            told = parsedate_to_datetime(answer.headers.get("Date", ""))
            self._skew = told.astimezone(UTC) - datetime.now(UTC)

    # --- logs -----------------------------------------------------------------------------------

    def log(self, pod: str, source: str, tail: int, after: str | None = None) -> Iterator[Logged]:
        """The pod's own log, `container` or `system`, as it comes; it ends where the stream is cut.

        after: the id of the last line that was read.
        """
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
        query = {"source": source, "tail": str(tail)}
        path = f"pods/{quote(pod, safe='')}/logs"
        try:
            with self._client.stream(
                "GET", path, params=query, headers=headers, timeout=SILENCE
            ) as answer:
                if not answer.is_success:
                    answer.read()
                    raise _refusal("GET", path, answer)
                yield from _events(answer.iter_lines())
        except httpx.HTTPError as error:
            raise Unanswered(f"GET {path}", type(error).__name__) from None

    # --- asking ---------------------------------------------------------------------------------

    def _read(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        return self._asked(REPEATED, "GET", path, params=dict(query or {}))

    def _asked(
        self, repeated: tuple[type[ApiError], ...], method: str, path: str, **more: Any
    ) -> Any:
        retrying = Retrying(
            retry=retry_if_exception_type(repeated),
            stop=stop_after_attempt(ATTEMPTS),
            wait=_wait,
            reraise=True,
        )
        return retrying(self._ask, method, path, **more)

    def _ask(self, method: str, path: str, **more: Any) -> Any:
        try:
            answer = self._client.request(method, path, **more)
        except httpx.HTTPError as error:  # whose text may hold the request
            raise Unanswered(f"{method} {path}", _in_words(error, self._client)) from None
        if not answer.is_success:
            raise _refusal(method, path, answer)
        if not answer.content:
            return None
        try:
            return answer.json()
        except ValueError:
            raise Unanswered(f"{method} {path}", f"{answer.status_code} without JSON") from None


def _in_words(error: httpx.HTTPError, client: httpx.Client) -> str:
    """What went wrong on the way, for a person."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return f"no connection to {client.base_url.host}; check network and proxy"
    if isinstance(error, httpx.TimeoutException):
        return f"no answer of {client.base_url.host} in {TIMEOUT:g} s"
    return f"the connection broke ({type(error).__name__})"


REPEATED = (RateLimited, Unanswered)
"""After which a read or a delete is tried again."""
Kind = TypeVar("Kind", bound=Reply)


def _parsed(kind: type[Kind], reply: Any) -> Kind:
    """A part of a reply; raises Unanswered, which names fields and no values: some are secrets."""
    try:
        return kind.model_validate(reply)
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, e["loc"])) or "all of it" for e in error.errors())
        raise Unanswered(kind.__name__, f"a reply without a usable {fields}") from None


def _refusal(method: str, path: str, answer: httpx.Response) -> ApiError:
    """The error that an answer stands for, with what RFC 9457 says of it."""
    what, status = f"{method} {path}", answer.status_code
    try:
        problem = answer.json()
        detail = str(problem.get("detail") or problem.get("title") or status)
    except (ValueError, AttributeError):
        detail = f"{status} without a problem's description"
    detail = " ".join(detail.split())
    if request := answer.headers.get("x-request-id"):
        detail = f"{detail} (request {request})"
    if status == 400 and any(text in detail.lower() for text in NO_CAPACITY):
        return NoCapacity(what, detail)
    if status == httpx.codes.GONE:
        return ApiError(what, f"this API is no more; update evengrad. {detail}")
    # Of a create nothing is sure but what the API documents: whatever else it says, the pod may be.
    unknown = Unanswered if status >= 500 or what == "POST pods" else BrokenRule
    kind = BY_STATUS.get(status, unknown)
    refusal = kind(what, detail, _seconds(answer.headers.get("Retry-After")))
    if isinstance(refusal, BrokenRule):
        refusal.contract = status == 422
    return refusal


def _seconds(text: str | None) -> float | None:
    """Retry-After as seconds; None where it is a date or nothing."""
    try:
        return max(0.0, float(text or ""))
    except ValueError:
        return None


def _wait(state: RetryCallState) -> float:
    """As long as the API asked for, else longer each time."""
    fault = state.outcome.exception() if state.outcome else None
    asked = fault.wait if isinstance(fault, ApiError) else None
    return min(LONGEST_WAIT, asked if asked is not None else 2.0 ** (state.attempt_number - 1))


def _events(lines: Iterator[str]) -> Iterator[Logged]:
    """Server-sent events whose data is JSON; others, such as keep-alives, are passed over."""
    last: str | None = None
    data: list[str] = []
    for line in lines:
        name, _, value = line.partition(":")
        if line == "" and data:
            with suppress(ValueError):
                parsed = json.loads("\n".join(data))
                yield Logged(last, parsed if isinstance(parsed, dict) else {"line": parsed})
            data = []
        elif name == "id":
            last = value.removeprefix(" ")
        elif name == "data":
            data.append(value.removeprefix(" "))

"""What RunPod's API answers when it does not do what was asked."""

from __future__ import annotations

from collections.abc import Collection
from typing import Self

LONGEST_DETAIL = 300
"""Characters of the API's own message that are kept."""
NOT_FOUND = 404


class ApiError(Exception):
    """The API refused or did not answer; one line, without secrets."""

    def __init__(self, request: str, detail: str, wait: float | None = None) -> None:
        super().__init__(f"{request}: {detail}")
        self.request = request
        self.detail = detail
        """The API's message, without the request."""
        self.wait = wait
        """Seconds that the API asks the client to wait."""

    def redact(self, secrets: Collection[str]) -> Self:
        """Replace these values in the message, then shorten it; returns the error."""
        detail = self.detail
        for secret in sorted({" ".join(s.split()) for s in secrets} - {""}, key=len, reverse=True):
            detail = detail.replace(secret, "<redacted>")
        self.detail = detail[:LONGEST_DETAIL]
        self.args = (f"{self.request}: {self.detail}",)
        return self


class NoCapacity(ApiError):
    """No machine of that kind is free; another candidate may be."""


class BrokenRule(ApiError):
    """The request breaks a rule of the API (400, 422); repeating it is useless."""

    malformed = False
    """True if the request is malformed (422), whichever GPU it names."""


class BadCredentials(ApiError):
    """The key is missing, wrong or expired (401)."""


class NoBalance(ApiError):
    """The account's balance is too low (402)."""


class NotAllowed(ApiError):
    """The key has no right to do this (403)."""


class RateLimited(ApiError):
    """Too many requests (429); refused before anything happened."""


class NotThere(ApiError):
    """There is no such thing (404); right after a create the API may not know it yet."""


class Unanswered(ApiError):
    """No answer, a 5xx, or a reply that cannot be read: the request may have been carried out."""


BY_STATUS: dict[int, type[ApiError]] = {
    400: BrokenRule,
    401: BadCredentials,
    402: NoBalance,
    403: NotAllowed,
    NOT_FOUND: NotThere,
    422: BrokenRule,
    429: RateLimited,
}

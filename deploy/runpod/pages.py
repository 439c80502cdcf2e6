"""Reading a list of RunPod's API whole, however many pages it has.

A page is `{"pods": […], "pagination": {"hasNextPage": true, "nextCursor": "…"}}`. The published
contract has no `pagination`: a page without it is the only one, unless it has a cursor at its top
level. A list must never look shorter than it is, for a pod that is not seen goes on costing money.
So every other shape is an error, and so is a list that does not come to its end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from deploy.runpod.errors import Unanswered

MOST_PAGES = 1000
"""Of one list; a page may be empty and have a next one."""

ReadPage = Callable[[Mapping[str, str]], Any]
"""Returns the JSON of one page, for the query parameters."""


def read_pages(
    request: str, name: str, query: Mapping[str, str], read: ReadPage
) -> list[dict[str, Any]]:
    """All rows of a list, each once, in the API's order.

    request: for messages, such as `GET pods`. name: the key of the rows in a page. Raises
    Unanswered for a page of an unknown shape, a repeated cursor or page, and too many pages.
    """
    rows: dict[str, dict[str, Any]] = {}
    cursors: set[str] = set()
    asked = dict(query)
    for _ in range(MOST_PAGES):
        page = read(asked)
        new = {str(row.get("id") or row.get("name")): row for row in _rows(request, name, page)}
        cursor = _next_cursor(request, page)
        if cursor is None:
            return list((rows | new).values())
        if cursor in cursors or (new and new.keys() <= rows.keys()):
            raise Unanswered(request, "the pages of the list repeat")
        rows |= new
        cursors.add(cursor)
        asked = {**query, "cursor": cursor}
    raise Unanswered(request, f"the list does not end within {MOST_PAGES} pages")


def _rows(request: str, name: str, page: Any) -> list[dict[str, Any]]:
    rows = page.get(name) if isinstance(page, dict) else None
    if not isinstance(rows, list):
        raise Unanswered(request, f"the reply has no list of {name}; update evengrad")
    for row in rows:
        if not isinstance(row, dict) or not (row.get("id") or row.get("name")):
            raise Unanswered(request, f"the list of {name} has a row without id; update evengrad")
    return rows


def _next_cursor(request: str, page: Mapping[str, Any]) -> str | None:
    """The cursor of the next page; None after the last one."""
    pagination = page.get("pagination")
    if pagination is None:
        more, cursor = None, page.get("nextCursor") or page.get("cursor")
    elif isinstance(pagination, dict) and pagination.keys() & {"hasNextPage", "nextCursor"}:
        cursor = pagination.get("nextCursor") or None
        more = pagination.get("hasNextPage", cursor is not None)
    else:
        raise Unanswered(request, "the reply has pages in an unknown form; update evengrad")
    if more is False or (more is None and cursor is None):
        return None
    if more not in (True, None) or not isinstance(cursor, str) or not cursor:
        raise Unanswered(request, "the reply has a next page without a usable cursor")
    return cursor

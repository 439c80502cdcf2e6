"""Lists in pages: read whole, or an error; pods on a later page are seen by every command."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from deploy.runpod.client import RunPod
from deploy.runpod.errors import Unanswered
from deploy.runpod.pages import MOST_PAGES, read_pages
from tests.runpod.client import GPU, IMAGE, asking, made, shell
from tests.runpod.faults import Fault, Oddity
from tests.runpod.simulator import Simulator, simulated
from tests.support.simulated_user import Renting, renting
from tests.support.warm_process import Nursery, until

LOCAL: dict[str, Any] = {"deploy.plan.prepare:REACHABLE": ["s3://", "/"]}
"""A store in a directory: S3 is not what is tested here."""


def page(*ids: str, **pagination: Any) -> dict[str, Any]:
    """A page of pods."""
    return {"pods": [{"id": pod} for pod in ids], "pagination": pagination}


def read(*pages: Any) -> list[str]:
    """The ids of a list that is served in these pages."""
    served = iter(pages)

    def next_page(_: Mapping[str, str]) -> Any:
        return next(served)

    return [row["id"] for row in read_pages("GET pods", "pods", {}, next_page)]


@pytest.mark.parametrize(
    ("pages", "ids"),
    [
        ([{"pods": []}], []),
        ([{"pods": [{"id": "a"}]}], ["a"]),
        ([page("a", hasNextPage=False, nextCursor=None)], ["a"]),
        ([page("a", hasNextPage=False, nextCursor="x")], ["a"]),
        ([page("a", nextCursor="x"), page("b", nextCursor=None)], ["a", "b"]),
        ([page(hasNextPage=True, nextCursor="x"), page("a", hasNextPage=False)], ["a"]),
        ([page("a", "b", hasNextPage=True, nextCursor="x"), page("b", hasNextPage=False)],
         ["a", "b"]),
        ([{"pods": [{"id": "a"}], "nextCursor": "x"}, {"pods": [{"id": "b"}]}], ["a", "b"]),
        ([{"pods": [{"id": "a"}], "cursor": "x"}, {"pods": []}], ["a"]),
        ([{"pods": [{"id": "a"}], "pagination": None}], ["a"]),
    ],
)  # fmt: skip
def test_lists_that_are_whole(pages: list[Any], ids: list[str]) -> None:
    """The documented page, one without pages, an empty first page, overlaps, an older cursor."""
    assert read(*pages) == ids


@pytest.mark.parametrize(
    "pages",
    [
        [[{"id": "a"}]],
        [None],
        ["pods"],
        [{}],
        [{"data": []}],
        [{"pods": None}],
        [{"pods": {"a": {}}}],
        [{"pods": [{"name": ""}]}],
        [{"pods": ["a"]}],
        [{"pods": [], "pagination": []}],
        [{"pods": [], "pagination": {}}],
        [{"pods": [], "pagination": {"next": "/v2/pods?page=2"}}],
        [page(hasNextPage=True)],
        [page(hasNextPage=True, nextCursor=None)],
        [page(hasNextPage=True, nextCursor=2)],
        [page(hasNextPage="yes", nextCursor="x")],
        [{"pods": [], "nextCursor": 7}],
    ],
    ids=repr,
)
def test_lists_of_an_unknown_shape(pages: list[Any]) -> None:
    """Every other reply is an error: an empty list would hide pods that cost money."""
    with pytest.raises(Unanswered, match="GET pods: "):
        read(*pages)


def test_lists_that_repeat() -> None:
    """A cursor or a page that comes again ends with an error, as do pages without an end."""
    again = page("a", hasNextPage=True, nextCursor="x")
    with pytest.raises(Unanswered, match="repeat"):
        read(again, page("b", hasNextPage=True, nextCursor="x"))
    with pytest.raises(Unanswered, match="repeat"):
        read(again, page("a", hasNextPage=True, nextCursor="y"))
    endless = (page(hasNextPage=True, nextCursor=str(n)) for n in range(MOST_PAGES + 1))
    with pytest.raises(Unanswered, match=f"within {MOST_PAGES} pages"):
        read(*endless)


# --- over the simulated API -----------------------------------------------------------------------


@pytest.fixture
def runpod(tmp_path: Path) -> Iterator[Simulator]:
    """An account whose lists have two rows a page, the first of them none."""
    with simulated(tmp_path, start=shell("exec sleep 600")) as made_:
        made_.images[IMAGE] = tmp_path
        made_.faults.page_size, made_.faults.empty_first_page = 2, True
        yield made_


def test_every_list_of_the_client(runpod: Simulator) -> None:
    """Pods, GPUs and secrets come from all pages; their cursors survive the way unharmed."""
    with asking(runpod) as client:
        names = [made(runpod, client, name).name for name in "abcde"]
    runpod.secrets.update(dict.fromkeys(["a/b", "c.d", "e"], "value"))
    with RunPod(runpod.key, runpod.url) as api:
        assert [pod.name for pod in api.pods()] == names
        assert GPU in [gpu.id for gpu in api.gpus("SECURE", 1, "12.8")]
        assert len(api.gpus("SECURE", 1, "12.8")) == len(runpod.catalog)
        assert api.secret_names() == {"a/b", "c.d", "e"}
    assert len([asked for asked in runpod.asked if asked.path.startswith("/v2/pods?")]) == 3


@pytest.fixture
def user(tmp_path: Path, nursery: Nursery) -> Iterator[Renting]:
    """A user whose lists have one pod a page, behind pods of somebody else."""
    with renting(tmp_path, str(tmp_path / "store"), nursery) as made_:
        made_.write(**{"train.epochs": 100_000})
        faults = made_.runpod.faults
        faults.page_size, faults.empty_first_page = 1, True
        faults.pods = [Oddity(stuck="STARTING"), Oddity(stuck="STARTING")]
        with asking(made_.runpod) as client:
            for name in ("theirs-1", "theirs-2"):
                client.post("pods", json={"name": name, "image": made_.image, "gpu": {"id": GPU}})
        yield made_


def ours(user: Renting) -> list[str]:
    """Our pods that cost money."""
    return [pod.name for pod in user.runpod.billing() if pod.name.startswith("evengrad-")]


def test_commands_see_pods_behind_the_first_page(user: Renting) -> None:
    """`list`, `reap` and `cancel` find our pod behind those of others, which stay."""
    submitted = user.submit("--detach", **LOCAL)
    assert submitted.wait() == 0, submitted.err
    (name,) = ours(user)
    assert user.run_id in user.done("list").out
    user.runpod.kill_host(user.pods[-1].id, "silent")  # it will not end itself
    cancelled = user.done("cancel", user.run_id, "--yes", "--wait", "0")
    assert cancelled.code == 0, cancelled.err
    assert f"ending pod {name}" in cancelled.err
    assert ours(user) == []
    assert len(user.runpod.billing()) == 2, "pods of others are left alone"


def test_reap_sees_pods_behind_the_first_page(user: Renting) -> None:
    """A pod of a cancelled run on a later page is ended; a first page without pods says nothing."""
    submitted = user.submit("--detach", **LOCAL)
    assert submitted.wait() == 0, submitted.err
    user.runpod.kill_host(user.pods[-1].id, "silent")  # it will not end itself
    user.done("cancel", user.run_id, "--yes", "--wait", "0", "--api-key-file", "/nowhere")
    reaped = user.done("reap", "--yes")
    assert reaped.code == 0, reaped.err
    assert "its run was cancelled" in reaped.err
    assert ours(user) == []


@pytest.mark.slow
def test_creates_without_an_answer_are_found_on_later_pages(user: Renting) -> None:
    """A pod that was made although the create failed is adopted, not rented twice."""
    user.runpod.faults.create = [Fault(500, done=True)]
    submitted = user.submit("--detach", **LOCAL)
    assert submitted.wait() == 0, submitted.err
    assert len(ours(user)) == 1


@pytest.mark.slow
def test_late_pods_on_later_pages_are_swept(user: Renting) -> None:
    """A create whose pod comes to light after its successor's start is ended by the submitter."""
    user.runpod.faults.create = [Fault(500, done=True)]
    user.runpod.faults.listing_lag = 3600.0
    submitted = user.submit(**LOCAL, **{"deploy.pods.follow:SWEEP_SECONDS": 0.2})
    until(lambda: len(ours(user)) == 2, say=lambda: submitted.err)
    user.runpod.faults.listing_lag = 0.0
    until(lambda: len(ours(user)) == 1, say=lambda: submitted.err)

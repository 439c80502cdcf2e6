"""The study: what it keeps in a store, and what a search that goes on finds in it."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from job.errors import InputError
from job.record.document import Damaged
from job.search.journal import FULL, StoreJournal, open_journal
from job.search.objective import Objective
from job.search.space import read_space
from job.search.study import AS_IT_IS, Pruner, SearchStudy, settings
from job.spec.read import read_spec
from job.store import Store, open_store
from tests.support.tiny_job import write

CONTENT = {
    "optimizer.lr": {"low": 0.0001, "high": 0.1, "log": True},
    "model.hidden": {"low": 2, "high": 16},
    "balance": {"choices": [{"kind": "fixed"}, {"kind": "running_mean"}]},
}


def study(
    folder: Path,
    content: dict[str, Any] | None = None,
    objective: str | None = "mean",
    pruner: Pruner = "median",
    edits: dict[str, Any] | None = None,
) -> SearchStudy:
    """The study in the folder's journal, as a new process opens it."""
    spec, path = write(folder, edits), folder / "space.json"
    path.write_text(json.dumps(content or CONTENT))
    space = read_space(path, json.loads(spec.read_text()), folder)
    storage = JournalStorage(JournalFileBackend(str(folder / "journal")))
    return SearchStudy(storage, "s", space, Objective.of(objective, read_spec(spec)), pruner)


def skills(value: float) -> dict[str, float | None]:
    return dict.fromkeys(("kind", "level", "down", "pair"), value)


class TestJournal:
    def test_it_is_in_optunas_format(self, store: Store, tmp_path: Path) -> None:
        """In a directory and in S3: Optuna's own reader of files opens what lies in the store."""
        made = optuna.create_study(storage=open_journal(store, "small/s.journal"), study_name="s")
        made.enqueue_trial({"x": 0.25})
        trial = made.ask()
        made.tell(trial, trial.suggest_float("x", 0, 1) + 1)
        copy = tmp_path / "copy"
        copy.write_bytes(store.get("small/s.journal").data)
        read = optuna.load_study(
            study_name="s", storage=JournalStorage(JournalFileBackend(str(copy)))
        )
        assert [(t.params, t.value) for t in read.trials] == [({"x": 0.25}, 1.25)]
        again = optuna.load_study(
            study_name="s", storage=open_journal(store.url, "small/s.journal")
        )
        assert again.trials == read.trials

    def test_its_objects_are_bounded(
        self, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In S3 a full object never changes again; put together in the order of their keys the
        objects are a file of Optuna's, and a search that goes on reads them all."""
        monkeypatch.setattr("job.search.journal.FULL", 600)
        store, at = open_store(s3_url), "small/s.journal"
        made = optuna.create_study(storage=open_journal(store, at), study_name="s")
        made.optimize(lambda trial: trial.suggest_float("x", 0, 1), 4)
        first = store.get(at).data
        again = optuna.load_study(storage=open_journal(store, at), study_name="s")
        again.optimize(lambda trial: trial.suggest_float("x", 0, 1), 4)
        entries = [*store.list(at)]
        assert [entry.key for entry in entries[:3]] == [at, f"{at}.000001", f"{at}.000002"]
        assert all(600 <= entry.size < 1200 for entry in entries[:-1])
        assert store.get(at).data == first
        copy = tmp_path / "copy"
        copy.write_bytes(b"".join(store.get(entry.key).data for entry in entries))
        of_file = JournalStorage(JournalFileBackend(str(copy)))
        read = optuna.load_study(study_name="s", storage=of_file)
        assert [t.value for t in read.trials] == [t.value for t in again.trials]
        assert len(read.trials) == 8
        damaged = store.get(f"{at}.000001")
        store.put_if_match(f"{at}.000001", b"{\n" + damaged.data, damaged.etag)
        with pytest.raises(Damaged, match=r"s\.journal\.000001, line 1: "):
            open_journal(store, at)

    def test_a_torn_end(self, tmp_path: Path) -> None:
        """What a power cut leaves of a last line is cut off; the study goes on, and so does it the
        next time."""
        store = open_store(tmp_path)
        optuna.create_study(storage=open_journal(store, "small/s.journal"), study_name="s").ask()
        path = tmp_path / "small/s.journal"
        whole = path.read_bytes()
        path.write_bytes(whole + b'{"op_code":4,"wor')
        open_journal(store, "small/s.journal")
        assert path.read_bytes() == whole

    @pytest.mark.parametrize("line", [b"{", b"\xff\xfe", b'{"a": 1}', b"3"])
    def test_a_damaged_one(self, store: Store, line: bytes) -> None:
        """Is refused in a line that names it and its line, and stays as it is."""
        optuna.create_study(storage=open_journal(store, "small/s.journal"), study_name="s").ask()
        data, etag = store.get("small/s.journal")
        damaged = line + b"\n" + data
        store.put_if_match("small/s.journal", damaged, etag)
        with pytest.raises(Damaged, match=r"small/s.journal, line 1: .* --study another name"):
            open_journal(store, "small/s.journal")
        assert store.get("small/s.journal").data == damaged

    def test_a_folder_in_its_place(self, tmp_path: Path) -> None:
        """Is refused in a line."""
        (tmp_path / "small/s.journal").mkdir(parents=True)
        with pytest.raises(Damaged, match=r"s\.journal is a folder"):
            open_journal(open_store(tmp_path), "small/s.journal")

    @pytest.mark.parametrize("full", [FULL, 100])
    def test_two_writers_lose_nothing(
        self, store: Store, full: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each entry of either is there once, in its writer's order, and none is cut: within an
        object, and where one ends."""
        monkeypatch.setattr("job.search.journal.FULL", full)

        def append(name: str) -> None:
            journal = StoreJournal(store, "small/s.journal")
            for n in range(8):
                journal.append_logs([{"by": name, "n": n}, {"by": name, "n": n + 0.5}])

        threads = [threading.Thread(target=append, args=(name,)) for name in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        entries = list(StoreJournal(store, "small/s.journal").read_logs(0))
        for name in "ab":
            assert [e["n"] for e in entries if e["by"] == name] == [n / 2 for n in range(16)]
        assert StoreJournal(store, "small/s.journal").read_logs(30) == entries[30:]


class TestTrials:
    def test_the_first_is_the_spec_as_it_is(self, tmp_path: Path) -> None:
        """If its values lie in the space; else there is none."""
        first = study(tmp_path).ask()
        assert first.params == {
            "optimizer.lr": 0.001, "model.hidden": 4, "balance": '{"kind": "fixed"}',
        }  # fmt: skip
        assert first.user_attrs[AS_IT_IS]
        made = study(tmp_path / "other", edits={"optimizer": {"lr": 0.5}})
        assert AS_IT_IS not in made.ask().user_attrs

    def test_its_label(self, tmp_path: Path) -> None:
        """Says which trial of which study a run is, its notes with which values; nothing of its
        content changes."""
        made = study(tmp_path, edits={"notes": "mine"})
        made.ask()
        trial = made.ask()
        bare, spec = made.space.spec(trial.params), made.spec(trial)
        assert (bare.label, spec.label) == (None, "trial 1 of s")
        assert spec.notes == f"{settings(trial.params)}\nmine"
        assert spec.notes.startswith("optimizer.lr 0.0")
        assert spec.content_hash() == bare.content_hash()

    def test_proposals_do_not_depend_on_interruptions(self, tmp_path: Path) -> None:
        """A study that a new process opens before each trial proposes what one process does, in
        the random beginning and after it; all of it differs."""

        def values(folder: Path, reopened: bool) -> list[dict[str, Any]]:
            found, made = [], study(folder)
            for _ in range(14):
                made = study(folder) if reopened else made
                trial = made.ask()
                found.append(trial.params)
                made.complete(trial, skills(-abs(trial.params["optimizer.lr"] - 0.02)), {})
            return found

        one = values(tmp_path / "a", reopened=False)
        assert values(tmp_path / "b", reopened=True) == one
        assert len({json.dumps(each) for each in one}) == 14

    def test_an_unfinished_trial_goes_on(self, tmp_path: Path) -> None:
        """With its number, its run and its values; values that a killed process had not yet drawn
        are drawn."""
        made = study(tmp_path)
        made.complete(made.ask(), skills(0.1), {})
        trial = made.ask()
        bare = made.study.ask()  # killed before it had any value
        (again, other) = study(tmp_path).unfinished
        assert (again.number, again.params, again.user_attrs) == (1, trial.params, {"run": "s-001"})
        assert other.number == bare.number == 2
        assert set(other.params) == set(CONTENT)
        assert len(study(tmp_path).begun) == 3

    def test_a_hopeless_trial_is_pruned(self, tmp_path: Path) -> None:
        """By the median of the trials before, at the same epoch; an epoch that is repeated after a
        kill is reported once."""
        made = study(tmp_path)
        for n in range(6):
            trial = made.ask()
            assert not made.is_hopeless(trial, 1, skills(0.1 * n + 0.1))
            made.complete(trial, skills(0.1 * n + 0.2), skills(0.01))
        good, bad = made.ask(), made.ask()
        assert not made.is_hopeless(good, 1, skills(0.9))
        assert not made.is_hopeless(study(tmp_path).unfinished[0], 1, skills(0.9))
        assert made.frozen(good.number).intermediate_values == {1: pytest.approx(0.9)}
        assert made.is_hopeless(bad, 1, skills(0.05))
        found = study(tmp_path).frozen(bad.number)
        assert found.state == TrialState.PRUNED
        assert found.value == pytest.approx(0.05)

    @pytest.mark.parametrize("pruner", ["hyperband", "none"])
    def test_other_pruners(self, tmp_path: Path, pruner: Pruner) -> None:
        """Hyperband prunes some of many trials; without one nothing is pruned."""
        made = study(tmp_path, pruner=pruner)
        pruned = 0
        for n in range(12):
            trial = made.ask()
            if any(made.is_hopeless(trial, e, skills(0.01 * (n % 5))) for e in range(1, 9)):
                pruned += 1
            else:
                made.complete(trial, skills(0.01 * (n % 5)), {})
        assert (pruned > 0) == (pruner == "hyperband")

    def test_several_objectives_are_not_pruned(self, tmp_path: Path) -> None:
        """Each task's skill is one; the front is Optuna's."""
        made = study(tmp_path, objective=None)
        for n in range(6):
            trial = made.ask()
            assert not made.is_hopeless(trial, 1, skills(-n))
            made.complete(trial, skills(0.1) | {"down": 0.1 * n, "pair": -0.1 * n}, {})
        assert len(made.study.best_trials) == 6

    def test_a_failed_trial(self, tmp_path: Path) -> None:
        """Has its reason in the study, and is no trial to go on with."""
        made = study(tmp_path)
        made.fail(made.ask(), "the loss of task a is inf")
        found = study(tmp_path).frozen(0)
        assert (found.state, found.user_attrs["error"]) == (
            TrialState.FAIL, "the loss of task a is inf",
        )  # fmt: skip
        assert study(tmp_path).unfinished == []

    def test_two_searches_of_a_trial(self, tmp_path: Path) -> None:
        """What the first to end it has recorded stays, whatever the other one finds."""
        one = study(tmp_path)
        trial = one.ask()
        other = study(tmp_path)
        (same,) = other.unfinished
        one.complete(trial, skills(0.5), skills(0.1))
        assert not other.is_hopeless(same, 1, skills(0.2))
        other.complete(same, skills(0.4), {})
        other.fail(same, "it was killed")
        found = study(tmp_path).frozen(0)
        assert (found.state, found.value) == (TrialState.COMPLETE, 0.5)
        assert (found.user_attrs["skill"], found.intermediate_values) == (skills(0.5), {})
        assert "error" not in found.user_attrs

    @pytest.mark.parametrize(
        ("changes", "what"),
        [
            ({"edits": {"train.epochs": 4}}, "spec"),
            ({"content": {"train.epochs": {"low": 1, "high": 4}}}, "space"),
            ({"objective": "min"}, "objective"),
        ],
    )
    def test_a_study_of_something_else(
        self, tmp_path: Path, changes: dict[str, Any], what: str
    ) -> None:
        """Is refused: its trials would not compare."""
        study(tmp_path)
        with pytest.raises(InputError, match=f"found a study of another {what}; .*another name"):
            study(tmp_path, **changes)

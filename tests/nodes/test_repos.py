"""Which repository each task of a file has a checkout of, and how the head makes bundles of folders."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cms.batch.header import Header
from cms.batch.model import BatchOptions, BatchRecord, BatchStatus, TaskOptions, resolve_task
from cms.cli.batch_load import BadTasks, load
from cms.errors import UsageError
from cms.folders import Folders, check_repo, key_of
from cms.nodes import artifacts
from cms.options import Layer
from cms.rpc.batches import BatchProblems, BatchResult

URL = "https://example.org/p.git"


class Taking:
    """A port that takes tasks in as the daemon does."""

    def __init__(self) -> None:
        self.tasks: dict[str, TaskOptions] = {}

    def ask(self, verb: Any, params: Any) -> Any:
        if verb.name == "batch.create":
            self.options = params.options
            return BatchResult(BatchRecord("b", 0.0, BatchStatus.LOADING, params.options))
        if verb.name == "batch.add":
            for one in params.tasks:
                made = resolve_task(one.spec, self.options.defaults, self.options.work_dir)
                self.tasks[made.session.name] = made
        return BatchProblems()

    def run(self, _verb: Any, _params: Any) -> Any:
        raise AssertionError("nothing is run")


class Site:
    """A folder with repositories, and what is said of a batch beside its file."""

    def __init__(self, root: Path) -> None:
        self.here, self.shared = root / "here", root / "shared"
        self.here.mkdir()
        self.shared.mkdir()
        self.data = ""

    def repository(self, name: str) -> Path:
        folder = self.here / name
        folder.mkdir(parents=True)
        (folder / "file").write_text(f"{name}\n")
        subprocess.run(["git", "init", "-q", str(folder)], check=True)
        return folder

    def rows(self, *rows: dict[str, str]) -> None:
        self.data = str(self.here / "rows.csv")
        with Path(self.data).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def load(self, *tasks: dict[str, str], flag: str | None = None, **top: object) -> dict[str, str]:
        """The repository of each task."""
        file = self.here / "tasks.json"
        file.write_text(json.dumps({"tasks": [{"prompt": "p", **one} for one in tasks], **top}))

        def options_of(header: Header, source: str) -> BatchOptions:
            said = Folders(key_of, str(self.here)).settle(header.defaults)
            defaults = said if flag is None else Layer(repo=check_repo(flag, "--repo", str(self.here)))
            shared = str(self.shared)
            return BatchOptions(
                str(self.here), source, defaults, data=self.data, on="temporal://h", artifacts=shared
            )

        port = Taking()
        load(port, str(file), options_of)
        return {name: made.repo for name, made in port.tasks.items()}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_each_task_has_its_own_or_that_of_all(site: Site) -> None:
    tasks = {"name": "own", "repo": f"{URL}#v1"}, {"name": "common"}
    assert site.load(*tasks, flag=URL) == {"own": f"{URL}#v1", "common": URL}
    assert site.load(*tasks, defaults={"repo": URL}) == {"own": f"{URL}#v1", "common": URL}
    assert site.load(*tasks) == {"own": f"{URL}#v1", "common": ""}


def test_a_folder_is_bundled_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = site.repository("one"), site.repository("two")
    made: list[bytes] = []
    store = artifacts.store

    def counted(folder: str, data: bytes) -> str:
        made.append(data)
        return store(folder, data)

    monkeypatch.setattr(artifacts, "store", counted)
    found = site.load(
        *({"name": f"r{number}", "repo": "one"} for number in range(3)),
        {"name": "absolute", "repo": str(one)},
        {"name": "two", "repo": str(two)},
    )
    assert len({found[name] for name in ("r0", "r1", "r2", "absolute")}) == 1
    assert found["two"].startswith("bundle:")
    assert found["two"] != found["r0"]
    assert len(made) == 2
    digest = found["two"].removeprefix("bundle:").partition("#")[0]
    assert artifacts.load(str(site.shared), digest)


def test_a_row_says_which(site: Site) -> None:
    site.rows({"url": URL, "at": "abc123"}, {"url": "git@example.org:p.git", "at": "v2"})
    place = "{{row.url}}#{{row.at}}"
    all_of = [f"{URL}#abc123", "git@example.org:p.git#v2"]
    assert list(site.load({"name": "t", "repo": place}).values()) == all_of
    assert list(site.load({"name": "t"}, flag=place).values()) == all_of


@pytest.mark.parametrize("value", ["../outside", "/etc", "file:///etc/git", "ext::sh -c x", "none"])
def test_what_a_row_may_not_choose(site: Site, value: str) -> None:
    (site.here.parent / "outside").mkdir()
    site.rows({"url": value})
    with pytest.raises(BadTasks):
        site.load({"name": "t", "repo": "{{row.url}}"})


def test_a_row_chooses_among_folders_of_the_batch(site: Site) -> None:
    site.repository("set/a")
    site.rows({"name": "a"})
    (found,) = site.load({"name": "t", "repo": "set/{{row.name}}"}).values()
    assert found.startswith("bundle:")


@pytest.mark.parametrize(
    ("repo", "says"),
    [("none", "does not exist"), (".", "not in a git repository"), ("ext::sh -c x", "not a repository")],
)
def test_what_is_wrong_is_told_with_its_line(site: Site, repo: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        site.load({"name": "t", "repo": repo})
    assert "task 't'" in str(caught.value)

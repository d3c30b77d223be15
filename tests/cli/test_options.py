"""Every option by every way in: it arrives in the session's options, or is refused where the table says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from cli.conftest import Cms
from cli.making import reply, result
from cli.scripted import ScriptedDaemon, serve
from cms.batch.model import BatchOptions, BatchRecord, BatchStatus, TaskOptions, resolve_task
from cms.config import load_settings
from cms.errors import UsageError
from cms.mcp.call import DaemonCall
from cms.mcp.tools import TOOLS
from cms.option_kinds import (
    APPLY,
    COMMANDS,
    COUNT,
    FILE,
    FILES,
    FOLDER,
    FOLDERS,
    ISOLATE,
    LEVEL,
    MODE,
    MODEL,
    MONEY,
    OUTCOMES,
    PRESET,
    QUESTION,
    RULES,
    SCHEMA,
    SECONDS,
    SIZE,
    SWITCH,
    TEXT,
    TEXTS,
    TRIES,
    VIOLATION,
    WRITES,
    Kind,
    Option,
    ToolName,
    Way,
)
from cms.options import OPTIONS
from cms.rpc.batches import BatchAddParams, BatchCreateParams, BatchProblems, BatchResult, BatchTasksResult
from cms.rpc.sessions import ContinueParams, DelegateParams, SpawnParams
from cms.rpc.verbs import Nothing
from cms.session.model import Limits, Outcome, Record, SessionOptions

#: What is written for an option of a kind, and what that means. Folders and files are in the current folder.
SAMPLES: dict[Kind, tuple[object, object]] = {
    SECONDS: ("90s", 90.0),
    MONEY: ("$0.75", 0.75),
    SIZE: ("1G", 2**30),
    COUNT: (7, 7),
    TRIES: (3, 3),
    TEXT: ("word", "word"),
    QUESTION: ("a question", "a question"),
    TEXTS: (["one"], ("one",)),
    COMMANDS: (["make"], ("make",)),
    RULES: (["Read"], ("Read",)),
    MODEL: ("haiku", "haiku"),
    MODE: ("acceptEdits", "acceptEdits"),
    OUTCOMES: (["stalled"], (Outcome.STALLED,)),
    FOLDER: ("sub", "..."),
    FOLDERS: (["sub"], "..."),
    FILE: ("{}", "{}"),
    FILES: (["{}"], ("{}",)),
    SCHEMA: ('{"type": "object"}', '{"type":"object"}'),
    PRESET: ("plan", "plan"),
    LEVEL: ("B", "B"),
    VIOLATION: ("deny", "deny"),
    WRITES: ("anywhere", "anywhere"),
    ISOLATE: ("overlay", "overlay"),
    APPLY: ("on-pass", "on-pass"),
}

ALL = pytest.mark.parametrize("option", OPTIONS.values(), ids=list(OPTIONS))


def sample(option: Option, here: Path) -> tuple[object, object]:
    """What is written, and what it means."""
    if option.kind is SWITCH:
        # The contrary of what holds when nobody says anything.
        meant: object = option.field != "safety"
        return meant, meant
    written, meant = SAMPLES[option.kind]
    if option.kind is FOLDER:
        return written, str(here / "sub")
    return written, (str(here / "sub"),) if option.kind is FOLDERS else meant


def flag_words(option: Option, flag: str, written: object) -> list[str]:
    if option.kind is SWITCH:
        return [flag]
    values = written if isinstance(written, list) else [written]
    return [word for value in values for word in (flag, str(value))]


class House:
    """A home, a folder to work in, and a daemon that writes down what it is asked."""

    def __init__(self, home: Path, here: Path, cms: Cms) -> None:
        self.home = home
        self.here = here
        self._cms = cms
        self.daemon: ScriptedDaemon

    def config(self, table: str, key: str, value: object) -> None:
        (self.home / "config.toml").write_text(f"[{table}]\n{key} = {json.dumps(value)}\n")

    def run(self, *words: str) -> tuple[int, str]:
        ran = self._cms(*words)
        return ran.code, ran.err

    def file(self, task: dict[str, object] = {}, defaults: dict[str, object] = {}) -> str:  # noqa: B006 - only read
        whole = {"defaults": defaults, "tasks": [{"name": "t", "prompt": "p", **task}]}
        (self.here / "tasks.json").write_text(json.dumps(whole))
        return "tasks.json"

    def tool(self, name: str, arguments: dict[str, object]) -> None:
        tool = next(tool for tool in TOOLS if tool.name == name)
        call = DaemonCall(load_settings(), lambda _: None)
        try:
            tool.run(call, arguments)
        finally:
            call.close()

    # --- what reached the daemon ---

    def delegated(self) -> tuple[SessionOptions, str]:
        (params,) = self.daemon.of(DelegateParams)
        assert isinstance(params, DelegateParams)
        return params.options, params.context

    def spawned(self) -> SessionOptions:
        (params,) = self.daemon.of(SpawnParams)
        assert isinstance(params, SpawnParams)
        return params.options

    def continued(self, option: Option) -> object:
        """What `continue` says of an option, and that it says nothing else."""
        (params,) = self.daemon.of(ContinueParams)
        assert isinstance(params, ContinueParams)
        if option.field not in Limits.__struct_fields__:
            assert params.limits in (None, Limits())
            return getattr(params, option.field)
        assert params.limits is not None
        value = getattr(params.limits, option.field)
        assert params.limits == msgspec.structs.replace(Limits(), **{option.field: value})
        return value

    def added(self) -> TaskOptions:
        (created,) = self.daemon.of(BatchCreateParams)
        (added,) = self.daemon.of(BatchAddParams)
        assert isinstance(created, BatchCreateParams)
        assert isinstance(added, BatchAddParams)
        batch = created.options
        return resolve_task(added.tasks[0].spec, batch.defaults, batch.work_dir)


@pytest.fixture
def house(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cms: Cms) -> Iterator[House]:
    here = tmp_path / "here"
    (here / "sub").mkdir(parents=True)
    home.mkdir()
    monkeypatch.chdir(here)
    house = House(home, here, cms)
    batch = BatchRecord("b", 0.0, BatchStatus.COMPLETED, BatchOptions(str(here)))

    def answer(value: Record) -> Callable[[Record], Record]:
        return lambda _: value

    script = {
        "session.delegate": answer(result()),
        "session.continue": answer(result()),
        "session.spawn": answer(reply()),
        "batch.create": answer(BatchResult(batch)),
        "batch.add": answer(BatchProblems()),
        "batch.check": answer(BatchProblems()),
        "batch.run": answer(BatchResult(batch)),
        "batch.tasks": answer(BatchTasksResult(())),
        "batch.discard": answer(Nothing()),
    }
    with serve(home, script) as daemon:
        house.daemon = daemon
        yield house


def found_in_session(option: Option, options: SessionOptions, context: str = "") -> object:
    if option.field == "context":
        return context
    holder = options.limits if option.field in Limits.__struct_fields__ else options
    return getattr(holder, option.field)


def found_in_task(option: Option, task: TaskOptions) -> object:
    if option.field in TaskOptions.__struct_fields__:
        return getattr(task, option.field)
    return found_in_session(option, task.session)


# --- flags ----------------------------------------------------------------------------------------------


def flags_of(option: Option, way: Way) -> tuple[str, ...]:
    if way == "batch" and option.group == "limits":
        return (option.flags[0].replace("--", "--task-", 1),)
    return option.flags


FLAGS: list[tuple[Option, Way, str]] = [
    (option, way, flag)
    for option in OPTIONS.values()
    for way in ("delegate", "spawn", "continue", "batch")
    for flag in flags_of(option, way)
]


@pytest.mark.parametrize(("option", "way", "flag"), FLAGS, ids=[f"{way} {flag}" for _, way, flag in FLAGS])
def test_flags(house: House, option: Option, way: Way, flag: str) -> None:
    written, meant = sample(option, house.here)
    words = flag_words(option, flag, written)
    first = {
        "delegate": ("delegate", "x", "go"),
        "spawn": ("spawn", "x", "go"),
        "continue": ("continue", "x", "go"),
        "batch": ("batch", "--file", house.file(), "--detach"),
    }[way]
    if option.field in ("repair", "judge_max_cost", "judge_model") and way == "delegate":
        words += ["--judge", "Is it good?"]  # there must be something to repair, and a judge
    code, err = house.run(*first, *words)
    if way not in option.ways:
        assert (code, f"there is no flag {flag!r}" in err) == (2, True)
        assert not house.daemon.received
        return
    assert code == 0, err
    match way:
        case "delegate":
            assert found_in_session(option, *house.delegated()) == meant
        case "spawn":
            assert found_in_session(option, house.spawned()) == meant
        case "continue":
            assert house.continued(option) == meant
        case _:
            assert found_in_task(option, house.added()) == meant


# --- the person's file ----------------------------------------------------------------------------------


@ALL
@pytest.mark.parametrize(
    "by", ["delegate", "spawn", "batch", "delegate tool", "spawn tool", "batch_start tool"]
)
@pytest.mark.parametrize("table", ["defaults", "profiles.night"])
def test_the_person_s_file(house: House, option: Option, table: str, by: str) -> None:
    written, meant = sample(option, house.here)
    house.config(table, option.flags[-1].removeprefix("--"), written)
    profile = table != "defaults"
    flags = ("--profile", "night") if profile else ()
    argument: dict[str, object] = {"profile": "night"} if profile else {}
    refused = ""
    try:
        match by:
            case "delegate" | "spawn":
                _, refused = house.run(by, "x", "go", *flags)
            case "batch":
                _, refused = house.run("batch", "--file", house.file(), "--detach", *flags)
            case "delegate tool":
                house.tool("delegate", {"name": "x", "task": "go", **argument})
            case "spawn tool":
                house.tool("spawn", {"name": "x", "prompt": "go", **argument})
            case _:
                tasks = [{"name": "t", "task": "p"}]
                house.tool("batch_start", {"tasks": tasks, "maxCost": 1.0, **argument})
    except UsageError as error:
        refused = error.message
    if "profile" not in option.ways:
        assert f"[{table}] knows no '{option.flags[-1].removeprefix('--')}'" in refused
        assert not house.daemon.received
        return
    if "delegate" in by:
        assert found_in_session(option, *house.delegated()) == meant
    elif "spawn" in by:
        meant = meant if "spawn" in option.ways else getattr(SessionOptions("x", "/"), option.field)
        assert found_in_session(option, house.spawned()) == meant
    else:
        assert found_in_task(option, house.added()) == meant


# --- files of tasks -------------------------------------------------------------------------------------


KEYS: list[tuple[Option, str]] = [
    (option, key)
    for option in OPTIONS.values()
    for key in dict.fromkeys((option.key, option.field, option.field.replace("_", "-"), *option.aliases))
]


@pytest.mark.parametrize(("option", "key"), KEYS, ids=[key for _, key in KEYS])
@pytest.mark.parametrize("way", ["file", "task"])
def test_files_of_tasks(house: House, option: Option, way: Way, key: str) -> None:
    written, meant = sample(option, house.here)
    said = {key.removeprefix("!"): not written if key.startswith("!") else written}
    file = house.file(said) if way == "task" else house.file(defaults=said)
    code, err = house.run("batch", "--file", file, "--detach")
    assert way in option.ways
    assert code == 0, err
    assert found_in_task(option, house.added()) == meant


# --- tools ----------------------------------------------------------------------------------------------


#: A batch has a cost and a time of its own.
BATCH_KEYS = {"max_cost": "taskMaxCost", "max_time": "taskMaxMinutes"}


@ALL
@pytest.mark.parametrize("name", get_args(ToolName))
def test_tools(house: House, option: Option, name: ToolName) -> None:
    said = option.tool
    key = (said.key if said is not None else "") or option.key
    if said is None and key == "systemPrompt":
        key = "replaceSystemPrompt"  # the other one means what is added
    if name == "batch_start":
        key = BATCH_KEYS.get(option.field, key)
    written, meant = sample(option, house.here)
    if option.kind in (SECONDS, MONEY):
        written = 1.5 if option.kind is SECONDS else meant
    given = {key: written}
    task: dict[str, object] = {"name": "t", "task": "p"}
    tool, arguments = {
        "delegate": ("delegate", {"name": "x", "task": "go", **given}),
        "spawn": ("spawn", {"name": "x", "prompt": "go", **given}),
        "continue": ("continue", {"name": "x", "message": "go", **given}),
        "batch_start": ("batch_start", {"tasks": [task], "maxCost": 5.0, **given}),
        "task": ("batch_start", {"tasks": [{**task, **given}], "maxCost": 5.0}),
    }[name]
    if said is None or name not in said.on:
        with pytest.raises(UsageError, match=f"unknown field `{key}`"):
            house.tool(tool, arguments)
        assert not house.daemon.received
        return
    house.tool(tool, arguments)
    match name:
        case "delegate":
            assert found_in_session(option, *house.delegated()) == meant
        case "spawn":
            assert found_in_session(option, house.spawned()) == meant
        case "continue":
            assert house.continued(option) == meant
        case _:
            assert found_in_task(option, house.added()) == meant


# --- a check that checks nothing ------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["", " \t", "# pytest", "\n  # a\n"])
def test_a_check_that_checks_nothing_is_a_mistake_by_every_way_in(house: House, command: str) -> None:
    """An empty variable of a shell: such a check would pass whatever was done."""
    task = house.file()
    for words in (("delegate", "x", "go"), ("batch", "--file", task, "--detach")):
        code, err = house.run(*words, "--verify", command)
        assert (code, "check nothing" in err) == (2, True), err
    for said in ([command], ["make", command], command):
        for file in (house.file({"verify": said}), house.file(defaults={"verify": said})):
            code, err = house.run("batch", "--file", file, "--detach")
            assert (code, "check nothing" in err) == (2, True), err
    for table, flags in (("defaults", ()), ("profiles.night", ("--profile", "night"))):
        house.config(table, "verify", ["make", command])
        code, err = house.run("delegate", "x", "go", *flags)
        assert (code, "check nothing" in err) == (2, True), err
    (house.home / "config.toml").unlink()
    for arguments in ({"verify": [command]}, {"verify": ["make", command]}):
        with pytest.raises(UsageError):
            house.tool("delegate", {"name": "x", "task": "go", **arguments})
        tasks = [{"name": "t", "task": "p", **arguments}]
        with pytest.raises(UsageError):
            house.tool("batch_start", {"tasks": tasks, "maxCost": 1.0})
    assert not [one for one in house.daemon.received if "session.delegate" in str(one)]

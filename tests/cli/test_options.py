"""Every option by every way in: it arrives in the session's options, or is refused where the table says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import get_args

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
    REPO,
    RULES,
    SCHEMA,
    SECONDS,
    SIZE,
    SWITCH,
    TAGS,
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
from cms.rpc.batches import (
    BatchAddParams,
    BatchChanged,
    BatchCreateParams,
    BatchProblems,
    BatchRequeueParams,
    BatchResult,
    BatchTasksResult,
)
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
    TAGS: (["one"], ("one",)),
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
    REPO: ("https://h/p.git#v1", "https://h/p.git#v1"),
    PRESET: ("plan", "plan"),
    LEVEL: ("B", "B"),
    VIOLATION: ("deny", "deny"),
    WRITES: ("anywhere", "anywhere"),
    ISOLATE: ("overlay", "overlay"),
    APPLY: ("on-pass", "on-pass"),
}


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

    def config(self, table: str, **keys: object) -> None:
        lines = [f"{key} = {json.dumps(value)}\n" for key, value in keys.items()]
        (self.home / "config.toml").write_text(f"[{table}]\n{''.join(lines)}")

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

    def continued(self) -> Callable[[Option], object]:
        """What `continue` says of an option."""
        (params,) = self.daemon.of(ContinueParams)
        assert isinstance(params, ContinueParams)
        limits = params.limits or Limits()
        return lambda option: getattr(
            limits if option.field in Limits.__struct_fields__ else params, option.field
        )

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
        "batch.requeue": answer(BatchChanged(batch, 1)),
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


def found(house: House, way: str) -> Callable[[Option], object]:
    """What the daemon was told of an option by this way in."""
    if way == "delegate":
        options, context = house.delegated()
        return lambda option: found_in_session(option, options, context)
    if way == "spawn":
        spawned = house.spawned()
        return lambda option: found_in_session(option, spawned)
    if way == "continue":
        return house.continued()
    if way == "batch_requeue":
        (requeued,) = house.daemon.of(BatchRequeueParams)
        assert isinstance(requeued, BatchRequeueParams)
        return lambda option: getattr(requeued.options, option.field)
    added = house.added()
    return lambda option: found_in_task(option, added)


def check_arrived(house: House, way: str, meant: Mapping[str, object]) -> None:
    """Hold what the daemon was told against what was meant; what nobody said a word of is as ever."""
    look = found(house, way)
    assert {field: look(OPTIONS[field]) for field in meant} == meant


# --- flags ----------------------------------------------------------------------------------------------


def flags_of(option: Option, way: Way) -> tuple[str, ...]:
    if way == "batch" and option.group == "limits":
        return (option.flags[0].replace("--", "--task-", 1),)
    return option.flags


WAYS: tuple[Way, ...] = ("delegate", "spawn", "continue", "batch")
BEGINNINGS: dict[str, tuple[str, ...]] = {
    "delegate": ("delegate", "x", "go"),
    "spawn": ("spawn", "x", "go"),
    "continue": ("continue", "x", "go"),
    "batch": ("batch", "--file", "tasks.json", "--detach"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("which", range(max(len(option.flags) for option in OPTIONS.values())))
def test_flags(house: House, way: Way, which: int) -> None:
    """All options at once, each by its first flag, then by its second ..."""
    house.file()
    words: list[str] = []
    meant: dict[str, object] = {}
    for option in OPTIONS.values():
        flags = flags_of(option, way)
        if way in option.ways and which < len(flags):
            written, meant[option.field] = sample(option, house.here)
            words += flag_words(option, flags[which], written)
    code, err = house.run(*BEGINNINGS[way], *words)
    assert code == 0, err
    check_arrived(house, way, meant)


@pytest.mark.parametrize("way", WAYS)
def test_one_flag_says_one_thing(house: House, way: Way) -> None:
    """Of what is not said nothing arrives; which of two is meant is seen one by one."""
    house.file()
    for option in OPTIONS.values():
        if option.group != "limits" or way not in option.ways:
            continue
        written, meant = sample(option, house.here)
        house.daemon.received.clear()
        code, err = house.run(*BEGINNINGS[way], *flag_words(option, flags_of(option, way)[0], written))
        assert code == 0, err
        look = found(house, way)
        others = [each for each in OPTIONS.values() if each.group == "limits" and way in each.ways]
        told = {each.field: look(each) for each in others}
        house.daemon.received.clear()
        assert house.run(*BEGINNINGS[way])[0] == 0
        look = found(house, way)
        assert told == {**{each.field: look(each) for each in others}, option.field: meant}


REFUSED = [
    (way, flag)
    for option in OPTIONS.values()
    for way in WAYS
    for flag in flags_of(option, way)
    if way not in option.ways
]


@pytest.mark.parametrize(("way", "flag"), REFUSED, ids=[" ".join(each) for each in REFUSED])
def test_a_flag_that_a_command_does_not_have(house: House, way: Way, flag: str) -> None:
    house.file()
    code, err = house.run(*BEGINNINGS[way], flag, "1")
    assert (code, f"unknown flag {flag!r}" in err) == (2, True), err
    assert not house.daemon.received


# --- the person's file ----------------------------------------------------------------------------------


BY = ("delegate", "spawn", "batch", "delegate tool", "spawn tool", "batch_start tool")


def key_of(option: Option) -> str:
    return option.flags[-1].removeprefix("--")


def ask(house: House, by: str, *, profile: bool) -> str:
    """Begin something with nothing but what the person's file says; gives why that was refused."""
    flags = ("--profile", "night") if profile else ()
    argument: dict[str, object] = {"profile": "night"} if profile else {}
    try:
        match by:
            case "delegate" | "spawn":
                return house.run(by, "x", "go", *flags)[1]
            case "batch":
                return house.run("batch", "--file", house.file(), "--detach", *flags)[1]
            case "delegate tool":
                house.tool("delegate", {"name": "x", "task": "go", **argument})
            case "spawn tool":
                house.tool("spawn", {"name": "x", "prompt": "go", **argument})
            case _:
                tasks = [{"name": "t", "task": "p"}]
                house.tool("batch_start", {"tasks": tasks, "maxCost": 1.0, **argument})
    except UsageError as error:
        return error.message
    return ""


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("table", ["defaults", "profiles.night"])
def test_the_person_s_file(house: House, table: str, by: str) -> None:
    way = by.removesuffix(" tool").replace("batch_start", "batch")
    meant: dict[str, object] = {}
    keys: dict[str, object] = {}
    for option in OPTIONS.values():
        if "profile" in option.ways:
            keys[key_of(option)], value = sample(option, house.here)
            if way == "spawn" and "spawn" not in option.ways:
                value = getattr(SessionOptions("x", "/"), option.field)
            meant[option.field] = value
    house.config(table, **keys)
    ask(house, by, profile=table != "defaults")
    check_arrived(house, way, meant)


@pytest.mark.parametrize("by", ["delegate", "batch_start tool"])
@pytest.mark.parametrize("table", ["defaults", "profiles.night"])
def test_what_the_person_s_file_cannot_say(house: House, table: str, by: str) -> None:
    for option in OPTIONS.values():
        if "profile" not in option.ways:
            house.config(table, **{key_of(option): sample(option, house.here)[0]})
            refused = ask(house, by, profile=table != "defaults")
            assert f"[{table}] has no key {key_of(option)!r}" in refused
    assert not house.daemon.received


# --- files of tasks -------------------------------------------------------------------------------------


def keys_of(option: Option) -> list[str]:
    return list(dict.fromkeys((option.key, option.field, option.field.replace("_", "-"), *option.aliases)))


@pytest.mark.parametrize("which", range(max(len(keys_of(option)) for option in OPTIONS.values())))
@pytest.mark.parametrize("way", ["file", "task"])
def test_files_of_tasks(house: House, way: Way, which: int) -> None:
    """All options at once, each by its first key, then by its second ..."""
    said: dict[str, object] = {}
    meant: dict[str, object] = {}
    for option in OPTIONS.values():
        assert way in option.ways
        if which < len(keys_of(option)):
            key = keys_of(option)[which]
            written, meant[option.field] = sample(option, house.here)
            said[key.removeprefix("!")] = not written if key.startswith("!") else written
    file = house.file(said) if way == "task" else house.file(defaults=said)
    code, err = house.run("batch", "--file", file, "--detach")
    assert code == 0, err
    check_arrived(house, "batch", meant)


# --- tools ----------------------------------------------------------------------------------------------


#: A batch has a cost and a time of its own.
BATCH_KEYS = {"max_cost": "taskMaxCost", "max_time": "taskMaxMinutes"}


def key_in(option: Option, name: ToolName) -> str:
    """How a tool calls an option, or would."""
    key = (option.tool.key if option.tool is not None else "") or option.key
    if option.tool is None and key == "systemPrompt":
        key = "replaceSystemPrompt"  # the other one means what is added
    return BATCH_KEYS.get(option.field, key) if name == "batch_start" else key


def call_of(name: ToolName, given: dict[str, object]) -> tuple[str, dict[str, object]]:
    task: dict[str, object] = {"name": "t", "task": "p"}
    calls: dict[ToolName, tuple[str, dict[str, object]]] = {
        "delegate": ("delegate", {"name": "x", "task": "go", **given}),
        "spawn": ("spawn", {"name": "x", "prompt": "go", **given}),
        "continue": ("continue", {"name": "x", "message": "go", **given}),
        "batch_start": ("batch_start", {"tasks": [task], "maxCost": 5.0, **given}),
        "task": ("batch_start", {"tasks": [{**task, **given}], "maxCost": 5.0}),
        "batch_requeue": ("batch_requeue", {"id": "night", **given}),
    }
    return calls[name]


@pytest.mark.parametrize("name", get_args(ToolName))
def test_tools(house: House, name: ToolName) -> None:
    given: dict[str, object] = {}
    meant: dict[str, object] = {}
    for option in OPTIONS.values():
        written, value = sample(option, house.here)
        if option.kind in (SECONDS, MONEY):
            written = 1.5 if option.kind is SECONDS else value
        key = key_in(option, name)
        if option.tool is not None and name in option.tool.on:
            given[key], meant[option.field] = written, value
            continue
        tool, arguments = call_of(name, {key: written})
        with pytest.raises(UsageError, match=f"unknown field `{key}`"):
            house.tool(tool, arguments)
    assert not house.daemon.received
    tool, arguments = call_of(name, given)
    house.tool(tool, arguments)
    check_arrived(house, {"batch_start": "batch", "task": "batch"}.get(name, name), meant)


# --- a check that checks nothing ------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["", " \t", "# pytest", "\n  # a\n"])
def test_a_check_that_checks_nothing_is_a_mistake_by_every_way_in(house: House, command: str) -> None:
    """An empty variable of a shell: such a check would pass whatever was done."""
    task = house.file()
    for words in (("delegate", "x", "go"), ("batch", "--file", task, "--detach")):
        code, err = house.run(*words, "--verify", command)
        assert (code, "without checking anything" in err) == (2, True), err
    for said in ([command], ["make", command], command):
        for file in (house.file({"verify": said}), house.file(defaults={"verify": said})):
            code, err = house.run("batch", "--file", file, "--detach")
            assert (code, "without checking anything" in err) == (2, True), err
    for table, flags in (("defaults", ()), ("profiles.night", ("--profile", "night"))):
        house.config(table, verify=["make", command])
        code, err = house.run("delegate", "x", "go", *flags)
        assert (code, "without checking anything" in err) == (2, True), err
    (house.home / "config.toml").unlink()
    for arguments in ({"verify": [command]}, {"verify": ["make", command]}):
        with pytest.raises(UsageError):
            house.tool("delegate", {"name": "x", "task": "go", **arguments})
        tasks = [{"name": "t", "task": "p", **arguments}]
        with pytest.raises(UsageError):
            house.tool("batch_start", {"tasks": tasks, "maxCost": 1.0})
    assert not [one for one in house.daemon.received if "session.delegate" in str(one)]

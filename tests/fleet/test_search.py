"""What was asked, answered and called is found by its words, and what is gone is not."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cms.config import Settings
from cms.errors import MachineError, UsageError
from cms.fleet import search as search_module
from cms.fleet.search import Search, open_search
from cms.session.audit import AuditEntry
from cms.session.model import InteractionState
from cms.session.search import MAX_WORDS, Found, cut_marked, to_match
from cms.store import audit, search_index, sessions
from cms.store.store import Store, open_store
from cms.testing.script import prompt, say
from fleet.kit import make_options, make_settings, supervising
from store.making import interaction, session


@asynccontextmanager
async def searching(home: Path) -> AsyncIterator[tuple[Store, Search]]:
    settings = Settings(home=home)
    async with open_store(settings) as store, open_search(settings, store) as search:
        yield store, search


async def say_in(
    store: Store,
    of: int,
    number: int = 1,
    *,
    asked: str = "",
    answered: str = "",
    state: InteractionState = InteractionState.DONE,
) -> None:
    """A message of session `of`, which is made if it is not there."""
    said = msgspec.structs.replace(
        interaction(number, of=of, state=state), prompt=asked or "do it", response=answered
    )
    await store.write(sessions.save, session(of), said)


def call_of(of: int, tool: str, detail: str, number: int = 1) -> AuditEntry:
    return AuditEntry(f"session-{of}", f"interaction-{of}-{number}", 1.0, tool, detail, "allowed")


def told(found: Found) -> list[tuple[str, int, str]]:
    return [(hit.session, hit.number, hit.kind) for hit in found.hits]


def marked(found: Found) -> list[str]:
    return [hit.snippet[start:end] for hit in found.hits for start, end in hit.marks]


async def test_prompts_answers_and_calls_are_found_newest_first(tmp_path: Path) -> None:
    async with searching(tmp_path / "home") as (store, search):
        await say_in(store, 1, asked="Why do tokens expire?", answered="The clock was wrong.")
        await store.write(audit.add, [call_of(1, "Bash", "grep -r expire src"), call_of(2, "Read", "a.py")])
        await say_in(store, 2, answered="Nothing will EXPIRE now: caf\u00e9 is open.")
        found = await search.find("expire", limit=10)
        assert told(found) == [("name-2", 1, "answer"), ("name-1", 1, "call"), ("name-1", 1, "prompt")]
        assert marked(found) == ["EXPIRE", "expire", "expire"]
        assert (found.left, found.more) == (0, False)
        assert told(await search.find("cafe", limit=10)) == [("name-2", 1, "answer")]
        assert told(await search.find("expire clock", limit=10)) == []  # all words in one text
        assert told(await search.find('"tokens expire"', limit=10)) == [("name-1", 1, "prompt")]
        assert told(await search.find('"expire tokens"', limit=10)) == []
        assert told(await search.find("tok*", limit=10)) == [("name-1", 1, "prompt")]
        assert told(await search.find("tok", limit=10)) == []
        first = await search.find("expire", limit=1)
        assert (told(first), first.more) == ([("name-2", 1, "answer")], True)
        assert told(await search.find("expire", session_id="session-1", limit=1)) == [("name-1", 1, "call")]
        assert told(await search.find("expire", since=2002.0, limit=10)) == []


async def test_what_is_said_later_is_found_too_and_an_answer_once_it_is_there(tmp_path: Path) -> None:
    async with searching(tmp_path / "home") as (store, search):
        await say_in(store, 1, asked="first", state=InteractionState.RUNNING)
        assert told(await search.find("first", limit=9)) == [("name-1", 1, "prompt")]
        await store.write(audit.add, [call_of(1, "Bash", "make later")])
        assert told(await search.find("later", limit=9)) == [("name-1", 1, "call")]
        await say_in(store, 1, asked="first", answered="much later")
        await say_in(store, 1, 2, asked="second, later")
        assert told(await search.find("later", limit=9)) == [
            ("name-1", 2, "prompt"), ("name-1", 1, "answer"), ("name-1", 1, "call"),
        ]  # fmt: skip


async def test_a_deleted_session_leaves_the_index_and_its_rows_may_be_used_again(tmp_path: Path) -> None:
    async with searching(tmp_path / "home") as (store, search):
        for of in (1, 2, 3):
            await say_in(store, of, answered=f"secret {of}")
        assert len((await search.find("secret", limit=9)).hits) == 3
        await store.write(sessions.delete, "session-3", 1.0)
        await search.forget("session-3")
        with sqlite3.connect(tmp_path / "home" / "search.db") as db:
            assert db.execute("SELECT count(*) FROM texts WHERE texts MATCH 'secret'").fetchone() == (2,)
        db.close()
        # By another process, which tells nobody; the store gives the rows to others.
        await store.write(sessions.delete, "session-2", 1.0)
        await say_in(store, 4, answered="public")
        await say_in(store, 5, answered="public")
        assert told(await search.find("secret", limit=9)) == [("name-1", 1, "answer")]
        assert told(await search.find("public", limit=9)) == [
            ("name-5", 1, "answer"),
            ("name-4", 1, "answer"),
        ]
        await store.write(sessions.delete, "session-1", 1.0)
    async with searching(tmp_path / "home") as (store, search):
        await search.find("public", limit=9)
        with sqlite3.connect(tmp_path / "home" / "search.db") as db:
            assert db.execute("SELECT count(*) FROM texts WHERE texts MATCH 'secret'").fetchone() == (0,)
        db.close()


async def test_an_index_that_is_behind_has_the_newest_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_module, "PATIENCE", 0.0)
    monkeypatch.setattr(search_index, "STEP", 2)
    async with searching(tmp_path / "home") as (store, search):
        for number in range(1, 8):
            await say_in(store, number, answered="word")
        found = await search.find("word", limit=9)
        assert told(found) == [("name-7", 1, "answer"), ("name-6", 1, "answer")]
        assert (found.left, found.since) == (5, 2001.0)
        await say_in(store, 8, answered="word")
        await search.fill()
        found = await search.find("word", limit=9)
        assert ([hit.session for hit in found.hits], found.left) == (
            [f"name-{n}" for n in range(8, 0, -1)],
            0,
        )


async def test_a_damaged_index_is_made_anew(tmp_path: Path) -> None:
    home = tmp_path / "home"
    async with searching(home) as (store, search):
        await say_in(store, 1, answered="word")
        assert (await search.find("word", limit=9)).hits
    (home / "search.db").write_bytes(b"not a database at all" * 1000)
    async with searching(home) as (store, search):
        assert told(await search.find("word", limit=9)) == [("name-1", 1, "answer")]
        for table in ("texts_data", "messages", "progress"):
            with sqlite3.connect(home / "search.db") as db:
                db.execute(f"DROP TABLE {table}")
            db.close()
            assert told(await search.find("word", limit=9)) == [("name-1", 1, "answer")]
        (home / "search.db").unlink()  # somebody takes it away, and leaves the log that belongs to it
        assert (home / "search.db-wal").exists()
        await say_in(store, 2, answered="word")
        assert len((await search.find("word", limit=9)).hits) == 2
    async with searching(home) as (_, search):
        assert len((await search.find("word", limit=9)).hits) == 2
    with sqlite3.connect(home / "search.db") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    async with searching(home) as (_, search):
        assert len((await search.find("word", limit=9)).hits) == 2


async def test_without_fts5_there_is_one_plain_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_index, "has_fts5", lambda: False)
    async with searching(tmp_path / "home") as (_, search):
        with pytest.raises(MachineError, match="FTS5"):
            await search.find("word", limit=9)
        await search.forget("session-1")
    assert not (tmp_path / "home" / "search.db").exists()


async def test_a_supervisor_finds_what_a_session_did_and_forgets_what_it_deletes(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await supervisor.create(make_options(settings, "one"))
        await supervisor.wait(
            await supervisor.submit("one", prompt("Look for gnus", say("There are gnus.")), type="spawn")
        )
        assert told(await supervisor.search.find("are gnus", limit=9))[0] == ("one", 1, "answer")
        await supervisor.rename("one", "two")
        assert told(await supervisor.search.find("are gnus", limit=9))[0] == ("two", 1, "answer")
        await supervisor.delete("two", force=True)
        assert told(await supervisor.search.find("gnus", limit=9)) == []


# --- whatever happens -------------------------------------------------------------------------------


_DEEDS = st.tuples(
    st.sampled_from(["begin", "answer", "call", "delete", "delete unheard", "step", "find", "reopen"]),
    st.integers(0, 4),
)


class World:
    """The store, and what ought to be found in it: of each session by message the kinds of its texts."""

    def __init__(self, home: Path) -> None:
        self.settings = Settings(home=home)
        self.truth: dict[int, list[set[str]]] = {}
        self.lives = 0  # no session that is new has the number of one that was deleted

    async def live(self, deeds: list[tuple[str, int]]) -> None:
        while deeds:
            async with searching(self.settings.home) as (store, search):
                while deeds:
                    deed, place = deeds.pop(0)
                    if deed == "reopen":
                        break
                    of = [*self.truth, 0][min(place, len(self.truth))]
                    await self.do(store, search, deed, of)
                await self.check(search)

    async def do(self, store: Store, search: Search, deed: str, of: int) -> None:
        messages = self.truth.get(of, [])
        match deed:
            case "begin":
                if not messages:
                    self.lives += 1
                    of, messages = self.lives, self.truth.setdefault(self.lives, [])
                messages.append({"prompt"})
                await say_in(store, of, len(messages), asked="word", state=InteractionState.RUNNING)
            case "answer" if messages:
                messages[-1].add("answer")
                await say_in(store, of, len(messages), asked="word", answered="word")
            case "call" if messages and "answer" not in messages[-1]:
                messages[-1].add("call")
                await store.write(audit.add, [call_of(of, "Bash", f"word {len(messages)}", len(messages))])
            case "delete" | "delete unheard" if messages:
                del self.truth[of]
                await store.write(sessions.delete, f"session-{of}", 1.0)
                if deed == "delete":
                    await search.forget(f"session-{of}")
            case "step":
                await search._catch_up(0.0)
            case "find":
                await self.check(search)

    async def check(self, search: Search) -> None:
        found = set(told(await search.find("word", limit=100)))
        assert found == {
            (f"name-{of}", number, kind)
            for of, messages in self.truth.items()
            for number, kinds in enumerate(messages, 1)
            for kind in kinds
        }


@given(st.lists(_DEEDS, max_size=25))
@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@example(
    # The row of a message that had ended is another's by now.
    [("begin", 9), ("begin", 9), ("answer", 1), ("find", 0), ("delete unheard", 1), ("begin", 9), ("find", 0)]
)
def test_what_is_there_is_found_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, deeds: list[tuple[str, int]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_index, "STEP", 2)
        trio.run(World(tmp_path_factory.mktemp("world") / "home").live, list(deeds))


# --- the question -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def anything() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:")
    db.execute("CREATE VIRTUAL TABLE texts USING fts5 (text)")
    db.execute("INSERT INTO texts VALUES ('nothing much')")
    return db


@given(
    st.text()
    | st.lists(st.sampled_from(['"', "*", "a", "OR", "NEAR(", "-", "^", ":", "\0", " "])).map("".join)
)
@example('"')
@example('a"b*" c')
@example("AND OR NOT")
@example("text : x")
@example("{a} + b ^c NEAR(x y, 5)")
def test_nothing_that_is_typed_is_an_error_of_syntax(anything: sqlite3.Connection, text: str) -> None:
    try:
        match = to_match(text)
    except UsageError:
        assert not any(letter.isalnum() for letter in text) or len(text.split()) > MAX_WORDS
        return
    anything.execute("SELECT count(*) FROM texts WHERE texts MATCH ?", (match,)).fetchone()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("two words", '"two" "words"'),
        ('a "b c" d', '"a" "b c" "d"'),
        ("conn* x", '"conn" * "x"'),
        ('"a b"*', '"a b" *'),
        ('unended "a b', '"unended" "a b"'),
        ("-- word ==", '"word"'),
        ("OR NOT", '"OR" "NOT"'),
        ('it"s', '"it" "s"'),
    ],
)
def test_how_it_is_read(text: str, match: str) -> None:
    assert to_match(text) == match


def test_a_snippet_is_never_long_and_its_marks_stay_within() -> None:
    assert cut_marked("a \x02hit\x03 b \x02c\x03") == ("a hit b c", ((2, 5), (8, 9)))
    text, marks = cut_marked("x" * 9000 + "\x02" + "y" * 9000 + "\x03z")
    assert len(text) < 400
    assert [text[start:end] for start, end in marks] == ["y" * (marks[0][1] - marks[0][0])]

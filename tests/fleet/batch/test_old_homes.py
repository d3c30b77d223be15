"""A batch that an older cms left behind is read, and gone on with."""

from __future__ import annotations

from pathlib import Path

import trio.testing

from cms.batch.model import BatchStatus, TaskSpec, resolve_task
from cms.options import Layer
from cms.session.model import Outcome
from cms.store import batch_tasks, schema
from fleet.batch.test_engine import open_house

#: Schema 4: a task is what its file says; what that says of all tasks stands beside the batch. As it was then
#: written, but for the line breaks.
OLD = (
    """INSERT INTO batches VALUES('old-63e046',1795612665.46289,'stopped','ad009e55f6df47748acebe6e9bb5bd55',
    0.0,0.0,1,0.0,'{"id":"old-63e046","created":1795612665.46289,"status":"stopped","options":{"workDir":
    "/srv/app","source":"tasks.json","defaults":{"context":"shared","model":"haiku","allowedTools":["Edit"],
    "protect":["k"],"envDeny":["TOKEN"],"verify":["true"],"requireContainment":"B","maxCost":0.25},
    "maxParallel":2,"maxCost":null,"maxTime":null,"stagger":0.0,"stormTries":12,"keepAlive":false,"fresh":
    false,"detached":false,"out":"","report":"","onDone":"","onFail":"","onPark":"","webhook":""},"total":3,
    "counts":{"waiting":3},"spent":0.0,"exact":true,"started":null,"ended":null,"deadline":null,"until":null,
    "reason":"","stoppedBy":"asked","parallel":0,"reserved":0.0,"warnings":[],"eta":null}')""",
    """INSERT INTO batch_tasks VALUES('old-63e046',0,'all',1,'waiting',1,0.0,0.5,NULL,'{"name":"all","prompt":
    "ok {{needs.plain.response}}","context":"know","needs":["plain"],"retries":2,"retryOn":["failed"],
    "retryActed":true,"workDir":"/srv/b","model":"opus","preset":"plan","safety":false,"permissionMode":"plan",
    "allowedTools":["Read"],"disallowedTools":["Web"],"systemPrompt":"s","appendSystemPrompt":"t","agent":"u",
    "fallbackModel":"haiku","effort":"high","addDirs":["/srv/c"],"mcpConfig":["{}"],"settings":"{}","protect":
    ["a","k"],"protectRead":["b"],"allowWrite":["c"],"envDeny":["AWS_*"],"onViolation":"deny","verify":
    ["make"],"askTimeout":5.0,"allowCms":true,"requireContainment":"D","maxCost":0.5,"maxTurns":3,"maxTime":
    60.0,"maxSilence":30.0,"maxToolCalls":4,"maxRepeats":5,"maxRetryTime":6.0,"maxMemory":1073741824,
    "maxProcs":9}','{}',NULL)""",
    """INSERT INTO batch_tasks VALUES('old-63e046',1,'plain',2,'waiting',0,0.0,0.25,NULL,
    '{"name":"plain","prompt":"ok"}','{}',NULL)""",
    """INSERT INTO batch_tasks VALUES('old-63e046',2,'torn',3,'failed',0,0.0,0.25,1,'{"name":','{}',NULL)""",
    "INSERT INTO batch_needs VALUES('old-63e046',0,'plain',1)",
)

DEFAULTS = Layer(
    model="haiku",
    protect=("k",),
    env_deny=("TOKEN",),
    allowed_tools=("Edit",),
    require_containment="B",
    max_cost=0.25,
    context="shared",
    verify=("true",),
)
ALL = TaskSpec(
    name="all", prompt="ok {{needs.plain.response}}", context="know", needs=("plain",), retries=2,
    retry_on=(Outcome.FAILED,), retry_acted=True, work_dir="/srv/b", model="opus", preset="plan",
    safety=False, permission_mode="plan", allowed_tools=("Read",), disallowed_tools=("Web",),
    system_prompt="s",
    append_system_prompt="t", agent="u", fallback_model="haiku", effort="high", add_dirs=("/srv/c",),
    mcp_config=("{}",), settings="{}", protect=("k", "a"), protect_read=("b",), allow_write=("c",),
    env_deny=("TOKEN", "AWS_*"), on_violation="deny", verify=("make",), ask_timeout=5.0, allow_cms=True,
    require_containment="D", max_cost=0.5, max_turns=3, max_time=60.0, max_silence=30.0, max_tool_calls=4,
    max_repeats=5, max_retry_time=6.0, max_memory=2**30, max_procs=9,
)  # fmt: skip


def write_old(home: Path) -> None:
    db = schema.connect(home / "cms.db")
    schema.migrate(db, home / "cms.db", schema.MIGRATIONS[:4])
    db.execute("PRAGMA foreign_keys = OFF")
    for statement in OLD:
        db.execute("".join(line.strip() for line in statement.splitlines()))
    db.close()


async def test_a_batch_of_an_older_version_goes_on(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.02
    write_old(tmp_path)
    async with open_house(tmp_path) as house:
        found = {
            task.name: task
            for task in await house.store.read(batch_tasks.named, "old-63e046", ["all", "plain"])
        }
        assert found["all"].options == resolve_task(ALL, DEFAULTS, "/srv/app")
        plain = TaskSpec(name="plain", prompt="ok")
        assert found["plain"].options == resolve_task(plain, DEFAULTS, "/srv/app")
        record = await (await house.batches.start("old-63e046")).wait()
        assert record.status is BatchStatus.FAILED  # one was failed before, and cannot be read
        assert house.sessions.prompts["all"] == "ok answer of plainknow"
        assert set(house.sessions.begun.values()) == {1}

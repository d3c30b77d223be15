"""The names of claude's built-in tools, by what a call of them can do."""

from __future__ import annotations

READ_TOOLS = ("Read", "Grep", "Glob", "LSP", "NotebookRead")
WRITE_TOOLS = ("Edit", "Write", "MultiEdit", "NotebookEdit")
#: The agent's own book-keeping: nothing outside of the session changes.
OWN_TOOLS = ("TodoWrite", "TaskOutput", "TaskStop", "ToolSearch", "Skill", "ReportFindings")
#: Subagents; their tools come from the same list and their calls pass the same gate.
AGENT_TOOLS = ("Task", "Agent", "SendMessage", "ListAgents")
SKILL_TOOL = "Skill"
QUESTION_TOOL = "AskUserQuestion"
#: How the model gives an answer of the shape that was asked for; it is there only then.
ANSWER_TOOL = "StructuredOutput"
PLAN_TOOL = "ExitPlanMode"
ENTER_PLAN_TOOL = "EnterPlanMode"
#: Moves all that follows into a work tree of its own.
WORKTREE_TOOL = "EnterWorktree"
#: No tool: the hook that claude asks before it makes a work tree, for a subagent as well.
WORKTREE_HOOK = "WorktreeCreate"
#: They look at the outside, or at what is planned.
LOOKING_TOOLS = ("WebFetch", "WebSearch", "CronList")
#: Whose inputs we know: what else names a file does so by whatever name.
KNOWN_TOOLS = frozenset(
    {
        *READ_TOOLS, *WRITE_TOOLS, *OWN_TOOLS, *AGENT_TOOLS, *LOOKING_TOOLS, QUESTION_TOOL, ANSWER_TOOL,
        PLAN_TOOL, ENTER_PLAN_TOOL, WORKTREE_TOOL, WORKTREE_HOOK, "Bash",
    }
)  # fmt: skip

"""`cms setup`: register the MCP server with Claude Code, teach the parent to delegate, and take it all back.

- `edit_json`: put a member into a JSON text, or take it out, every other byte as it was. Pure.
- `backups`: backups, what was there before, writing a file in one step.
- `claude_cli`: the `claude mcp` commands, and reading what they say.
- `install`: install and uninstall; a report of each step.

The rules:

- Claude Code's own commands change its files; we never edit them in their place. Its `mcp add` writes the
  whole file anew in its own format, which changes what it does not mean to (indentation, escapes, numbers of
  more than 15 digits). A project's `.mcp.json` is a file that people write and commit, so there the text
  around the entry is put back as it was. `~/.claude.json` is Claude Code's own, rewritten at each of its
  starts: there its format is left alone.
- Before a file is changed it is backed up, with a note of what it looked like afterwards. If it still looks
  so at uninstall, nobody has touched it since, and the very bytes from before are put back. Else only our
  entry is taken out.
- Doing it twice is doing it once.
"""

from __future__ import annotations

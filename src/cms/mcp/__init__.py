"""`cms mcp`: the daemon's sessions as tools, so that one Claude can put others to work.

Read in this order:

- `schema`: from a struct to the JSON Schema that a client is shown. Pure.
- `results`: what a model is told about sessions and their work; short, because it pays for each word.
- `tool`: what a tool is; `params`: what several of them take.
- `work`, `batch`, `collecting`, `life`, `looking`, `money`: the tools, a file per group; `tools`: all.
- `line`: one tool call's line to the daemon, in a worker thread: progress, cancellation.
- `resources`, `prompts`: transcripts to read; how to split and delegate work.
- `server`: the only module that imports the `mcp` SDK, and the one that runs trio.

Nothing else in the project imports the SDK: it takes most of a second.
"""

from __future__ import annotations

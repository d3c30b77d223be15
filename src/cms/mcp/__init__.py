"""`cms mcp`: the daemon's sessions as tools, so that one Claude can put others to work.

Read in this order:

- `schema`: from a struct to the JSON Schema that a client is shown. Pure.
- `results`: what a model is told about sessions and their work; short, because it pays for each word.
- `tool`: what a tool is; `params`: what several of them take.
- `sessions`, `batch`, `questions`, `status`, `cost`: the tools, a file per noun; `tools`: all.
- `call`: one tool call's connection to the daemon, in a worker thread: progress, cancellation.
- `resources`, `prompts`: transcripts to read; how to split and delegate work.
- `server`: the only module that imports the `mcp` SDK, and the one that runs trio.

Nothing else in the project imports the SDK: it takes most of a second.
"""

from __future__ import annotations

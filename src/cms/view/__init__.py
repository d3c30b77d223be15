"""`cms view`: pages in a browser, about what the daemon of this home knows.

A client like any command: it asks the daemon over its socket, reads raw logs as `cms logs` does, and keeps
nothing. `feeds` says what a page is told and what of it is new, `server` tells it to browsers, `guard` says
who may ask, `acts` does what a person clicks, `export` writes the same into files.
"""

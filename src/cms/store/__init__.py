"""What was acknowledged, on disk: an SQLite database, and beside it the raw lines of each session.

In reading order:

- `store`: the one door to the database, on trio: `write` and `read` take a transaction
- `database`: one connection, its transactions, and in whose name it writes
- the transactions by subject: `sessions`, `money` (ledger, caps, reservations), `audit`, `turns` (what a
  message needs of these three at once), `recovery` (after a crash), `batches`, `batch_intake`, `batch_tasks`
- `schema` (the migrations), `rows` (records to rows), `records` (values that only the store knows), `owners`
  (which processes have the store open), `errors` (what SQLite and the disk throw becomes `StoreError`)
- `search_index`: the words of what was said, in a database of its own
- beside the database: `rawlog` (each line to and from claude), `trash` (the logs of deleted sessions),
  `read_only` (a look at names without opening the store)
"""

"""What was acknowledged, on disk: an SQLite database, and beside it the raw lines of each session.

In reading order: `records` (what is written down beside sessions), `schema` (the database and its
migrations), `rows` (records to rows), `owners` (which stores live), `books` (the transactions), `journal`
(the same on trio: what the rest of the house uses), `rawlog` (the raw lines), `faults` (foreign exceptions
end here).
"""

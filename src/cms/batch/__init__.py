"""Batch, thinking part: many delegations as pure values and functions, without I/O and without a clock.

| module | question it answers |
| --- | --- |
| `model` | what is a task, a batch, a result |
| `entries`, `header` | what does a key of a task mean, and one of the whole batch |
| `spec` | what does a file of tasks say, and what is wrong with it, by line |
| `rows` | what does a table say, and which of its rows are taken |
| `table` | which tasks do rows, cells of a matrix and attempts make |
| `template` | which results of others, and values of a row, does a prompt want; what it reads with them |
| `graph` | is there a cycle; how long is the longest chain |
| `throttle` | how many may run at once, given what the API bears; when is it time to rest |
| `many` | what is under way, by the tens of thousands, in copies that are cheap |
| `allowance` | may this task start under the batch's cap |
| `retry` | a try has ended: is the task over, or tried again, when and how |
| `ends` | what is written down of a try that has ended |
| `schedule` | fold of all that: what is to be started, stopped, waited for |
| `forecast` | what will it cost, how long will it take, will it fit |
| `scores` | how many attempts passed, how sure is that, which one is best |
| `report` | what became of it, as Markdown and HTML |

Who carries it out is `cms.fleet.batch_engine`; who remembers is `cms.store.batches`.
"""

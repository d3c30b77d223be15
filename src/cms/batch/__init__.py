"""Batch, thinking part: many delegations as pure values and functions, without I/O and without a clock.

| module | question it answers |
| --- | --- |
| `model` | what is a task, a batch, a result |
| `spec` | what does a file of tasks say, and what is wrong with it, by line |
| `template` | which results of others does a prompt want, and what does it read with them |
| `graph` | is there a cycle; how long is the longest chain |
| `throttle` | how many may run at once, given what the API bears; when is it time to rest |
| `allowance` | may this task start under the batch's cap |
| `retry` | a try has ended: is the task over, or tried again, when and how |
| `ends` | what is written down of a try that has ended |
| `schedule` | fold of all that: what is to be started, stopped, waited for |
| `forecast` | what will it cost, how long will it take, will it fit |
| `report` | what became of it, as Markdown and HTML |

Who carries it out is `cms.fleet.batch_engine`; who remembers is `cms.store.batches`.
"""

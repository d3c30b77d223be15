"""`cms drill`: certify a machine before a night run, by trying on it what must not happen.

Every case goes the whole way: a supervisor like the daemon's, sessions in this machine's containers, tool
calls that start programs made to outlive a kill (`testing.hostile`) or to overstep a limit, and then a look
at what is left. The agent is the simulated one where the machine is on trial, and the real `claude` on the
scripted model where claude's part is (limits, crash); without a `claude` the simulated agent plays that too,
and it is said.

Nothing is spent, nobody is called, everything lives in a temporary folder with a private HOME, and every
hostile program bounds itself: 8 seconds, 400 processes. A case that does not come to an end is ended.

- `run`: the command and its report; `trials`: one case after the other, and what came of each
- `group`: what the cases have in common; by group: `machine` (kill, freeze, walls, caps), `folder`,
  `limits`, `crash`
"""

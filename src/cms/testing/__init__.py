"""Shipped fakes: everything needed to rehearse with agents and pay for none.

| module | purpose |
| --- | --- |
| `script` | what the model is to say, carried in the prompt: `prompt("Fix it", call("Bash"), say("Done."))` |
| `events` | one scripted reply as the Messages API's events |
| `api` | the scripted Messages API on loopback, for the real `claude` |
| `agent` | the simulated agent, for thousands of them and for those that misbehave |
| `hostile` | programs that try to escape from their container |

They are product code, tested like the rest: `cms demo` plays with them, and so can the tests of programs
that are built on cms.
"""

"""Many hosts: the node that does tasks of other machines' batches, and the bridge from a batch to its engine.

The engine is Temporal (its Standalone Activities: at most once by id, a heartbeat, a cancel). Its client is
asyncio: it is imported here alone, and only in processes of their own, `cms node`, `cms fleet` and the bridge
that a daemon starts for a batch (`bridge`). `state` and `artifacts` know nothing of it.
"""

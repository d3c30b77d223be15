"""Every method there is, in one table; apart, because a client that only asks needs no such table."""

from __future__ import annotations

from cms.rpc import api, api_audit, api_batch, api_care
from cms.session.model import Record

#: method -> (params, results), as `api.METHODS` explains.
METHODS: dict[str, tuple[type[Record], tuple[type[Record], ...]]] = {
    **api.METHODS,
    **api_care.METHODS,
    **api_audit.METHODS,
    **api_batch.METHODS,
}

"""Port Transaction, whole."""

from __future__ import annotations

from connector.adapters.sql.consents import Consents
from connector.adapters.sql.events import Events
from connector.adapters.sql.grants import Grants
from connector.adapters.sql.outbox import Outbox
from connector.adapters.sql.processes import Processes
from connector.adapters.sql.values import Values


class SqlTransaction(Processes, Outbox, Events, Consents, Grants, Values):
    """One open database transaction; dead once its `async with` is left."""

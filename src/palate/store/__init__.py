"""What a running service remembers of people: events, feedback and conversations, in SQLite or PostgreSQL.

    with Store.open("palate.db") as store:
        store.add_events([StoredEvent("42", "50", "like")])
        session = store.new_session("42", "ml-100k")
        store.save_turn(session, "user", "something funny")
        store.export("42"); store.forget("42")

Rows go in and come out as frozen dataclasses; no object of the database leaves this package.
"""

from palate.store.records import Feedback, Forgotten, Kind, Role, Session, StoredEvent, Turn
from palate.store.store import Store

__all__ = ["Feedback", "Forgotten", "Kind", "Role", "Session", "Store", "StoredEvent", "Turn"]

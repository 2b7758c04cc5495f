"""The routes: each file one subject, with a `router` that the app finds here."""

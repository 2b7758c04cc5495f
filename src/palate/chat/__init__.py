"""Conversations about what to choose next."""

from palate.chat.talk import Answer, Chat

__all__ = ["Answer", "Chat"]

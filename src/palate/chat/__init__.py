"""Conversations about what to choose next."""

from palate.chat.answers import Answer, Piece
from palate.chat.talk import Chat

__all__ = ["Answer", "Chat", "Piece"]

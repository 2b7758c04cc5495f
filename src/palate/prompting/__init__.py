"""Requests and catalogue items to prompts: templates, token budget, soft-token slots."""

from palate.prompting.context import context_of
from palate.prompting.lines import Show, ShowFields
from palate.prompting.serialize import Extras, Serializer
from palate.prompting.template import Template, chosen, load, names

__all__ = ["Extras", "Serializer", "Show", "ShowFields", "Template", "chosen", "context_of", "load", "names"]

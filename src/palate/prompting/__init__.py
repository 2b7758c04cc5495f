"""Requests and catalogue items to prompts: templates, token budget, soft-token slots."""

from palate.prompting.lines import Show, ShowFields
from palate.prompting.serialize import Extras, Serializer
from palate.prompting.template import Template, load, names

__all__ = ["Extras", "Serializer", "Show", "ShowFields", "Template", "load", "names"]

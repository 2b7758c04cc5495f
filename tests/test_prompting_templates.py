"""Templates: what a file may hold, strict variables, the sandbox, the hash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from palate.errors import TemplateError
from palate.prompting import load, names
from palate.prompting import template as templates

SHIPPED = [
    "chat", "explain", "letters", "next_item", "next_item_reviews", "rated", "rating", "sequence",
    "sequence_profile", "sequence_timed", "yes_no",
]  # fmt: skip
YES_NO: dict[str, Any] = {
    "name": "mine",
    "mode": "yes_no",
    "user": "Seen:\n{{ history }}\n",
    "history_item": "- {{ item.title }}\n",
    "branch": "Like {{ item.title }}?",
    "labels": ["Yes", "No"],
}
RENDER = {"wording": None, "labels": (), "profile": {}, "context": {}, "query": "", "facts": ()}


def test_both_languages_ship_the_same_templates() -> None:
    assert names("en") == names("zh") == SHIPPED
    for name in SHIPPED:
        english, chinese = load(name), load(name, "zh")
        assert (english.mode, english.chat) == (chinese.mode, chinese.chat)
        assert english.hash != chinese.hash
        assert len(english.labels) == len(chinese.labels)
        assert english.max_candidates == chinese.max_candidates


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_templates_name_no_domain(name: str, language: str) -> None:
    text = "".join(load(name, language).pieces.values()).lower()
    for word in ("movie", "film", "watch", "product", "电影", "观看"):
        assert word not in text


def test_unknown_names_suggest() -> None:
    with pytest.raises(TemplateError, match=r"no template is called 'yesno'.*did you mean 'yes_no'"):
        load("yesno")
    with pytest.raises(TemplateError, match=r"no templates in the language 'fr'.*en, zh"):
        load("yes_no", "fr")
    with pytest.raises(TemplateError, match=r"no template is called '../en/yes_no'"):
        load("../en/yes_no")
    with pytest.raises(TemplateError, match=r"expected a YAML file at .*mine.yaml, found nothing"):
        load("mine.yaml")


def test_own_template_by_path_and_by_folder(tmp_path: Path) -> None:
    path = tmp_path / "en" / "mine.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(YES_NO), encoding="utf-8")
    by_path = load(path)
    assert by_path == load(str(path)) == load("mine", where=tmp_path)
    assert by_path.source == str(path)
    path.write_text("name: [", encoding="utf-8")
    with pytest.raises(TemplateError, match=r"mine.yaml: not valid YAML"):
        load(path)


def test_shipped_templates_are_found_in_a_wheel_and_missing_ones_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site-packages" / "palate"
    monkeypatch.setattr(templates, "__file__", str(package / "prompting" / "template.py"))
    with pytest.raises(TemplateError, match=r"expected the prompt templates in .*palate/prompts; reinstall"):
        templates.folder()
    (package / "prompts" / "en").mkdir(parents=True)
    assert templates.folder() == package / "prompts"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lables": ["a"]}, "unknown key 'lables'; did you mean 'labels'"),
        ({"mode": "yesno"}, "key 'mode'.*'yes_no'"),
        ({"labels": [True, False]}, "quote the labels"),
        ({"labels": ["Yes"]}, "needs two `labels`"),
        ({"labels": ["Yes", "Yes"]}, "must be different"),
        ({"labels": []}, "mode 'yes_no' needs the key `labels`"),
        ({"branch": ""}, "mode 'yes_no' needs the key `branch`"),
        ({"answer": "{{ item.title }}"}, "no use for the key `answer`"),
        ({"max_candidates": 3}, "no use for the key `max_candidates`"),
        ({"user": "Hello"}, r"must hold the placeholder \{\{ history \}\}"),
        ({"user": "{{ history }}{{ candidates }}"}, "needs the key `candidate_item`"),
        ({"user": "{{ histroy }}"}, "mine.yaml: `user` uses the variable 'histroy'.*did you mean 'history'"),
        (
            {"history_item": "{{ query }}"},
            "`history_item` uses the variable 'query'.*available: wording, item",
        ),
        ({"branch": "{{ item.title"}, "`branch`, line 1 of the piece: not valid Jinja"),
        ({"branch": "{{ item.title | shout }}"}, "`branch`.*No filter named 'shout'"),
        ({"branch": "a\ue000b {{ item.title }}"}, "`branch` holds a private-use character"),
        ({"name": "Mine!"}, "key 'name'"),
    ],
)
def test_mistakes_in_a_file_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TemplateError, match=f"(?s)mine.yaml.*{message}|{message}"):
        templates.parse({**YES_NO, **change}, "mine.yaml")


@pytest.mark.parametrize("values", [None, [], "text", 3])
def test_a_file_that_is_no_mapping(values: Any) -> None:
    with pytest.raises(TemplateError, match=r"mine.yaml: expected a mapping of keys"):
        templates.parse(values, "mine.yaml")


def test_letters_rules() -> None:
    letters = {**YES_NO, "mode": "letters", "branch": "", "candidate_item": "{{ label }}. {{ item.title }}\n"}
    with pytest.raises(TemplateError, match=r"must hold the placeholder \{\{ candidates \}\}"):
        templates.parse(letters, "mine.yaml")
    letters["user"] = "{{ history }}{{ candidates }}"
    with pytest.raises(TemplateError, match="`max_candidates` is 3, but there are 2 labels"):
        templates.parse({**letters, "max_candidates": 3}, "mine.yaml")
    assert templates.parse(letters, "mine.yaml").lists_candidates


def test_a_missing_field_is_named_with_what_there_is() -> None:
    template = templates.parse({**YES_NO, "user": "{{ profile.age }} {{ history }}"}, "mine.yaml")
    with pytest.raises(TemplateError, match=r"mine.yaml: `user`:.*'age'; available variables: .*profile"):
        template.render("user", {**RENDER, "history": "x"})
    assert template.render("user", {**RENDER, "history": "x", "profile": {"age": "24"}}) == "24 x"


@pytest.mark.parametrize(
    "attack",
    [
        "{{ item.__class__ }}",
        "{{ item.__class__.__mro__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ wording.__init__.__globals__ }}",
        "{{ '{0.__class__}'.format(item) }}",
        "{{ item | attr('__class__') }}",
        "{{ labels.append('x') }}",
        "{{ profile.update({'a': 'b'}) }}",
        "{{ profile.clear() }}",
        "{{ 'a' * 10 ** 10 }}",
        "{{ 'a' * 1000000000 }}",
        "{{ range(10000000) | list }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os }}",
        "{{ 1 / 0 }}",
    ],
)
def test_the_sandbox_holds(attack: str) -> None:
    profile = {"a": "b"}
    item = type("View", (), {"title": "x"})()
    values = {**RENDER, "labels": ["x"], "profile": profile, "item": item}
    with pytest.raises(TemplateError, match=r"mine\.yaml: `branch`"):
        templates.parse({**YES_NO, "branch": attack}, "mine.yaml").render("branch", values)
    assert (profile, values["labels"]) == ({"a": "b"}, ["x"])


def test_hash_is_of_the_content_not_of_the_layout() -> None:
    base = templates.parse(YES_NO, "one.yaml")
    same = templates.parse(dict(reversed(list({**YES_NO, "chat": True}.items()))), "two.yaml")
    assert base.hash == same.hash
    assert base == same
    assert len(base.hash) == 64
    for key, value in [("branch", "Love {{ item.title }}?"), ("chat", False), ("labels", ["No", "Yes"])]:
        assert templates.parse({**YES_NO, key: value}, "one.yaml").hash != base.hash


@given(st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text())))
def test_any_mapping_is_a_template_or_a_clear_error(values: dict[str, Any]) -> None:
    with pytest.raises(TemplateError, match=r"mine.yaml"):
        templates.parse(values, "mine.yaml")

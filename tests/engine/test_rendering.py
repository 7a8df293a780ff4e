"""Chat templates of strangers run in a process of their own, and see what transformers shows them."""

from __future__ import annotations

import os
from pathlib import Path

import jinja2
import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from compute_worker.engine.rendering import Renderer
from lorry.errors import InvalidInput

MESSAGES = [{"role": "system", "content": "be brief"}, {"role": "user", "content": 'hi "there" <b>'}]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
TEMPLATES = [
    "{{ bos_token }}{% for m in messages %}\n{% if loop.first %}[{{ m.role }}]{% endif %}\n{{ m.content }}{% endfor %}",
    "{{ messages | tojson }}{{ messages | tojson(indent=2) }}{{ tools }}{{ documents is none }}",
    "{% set ns = namespace(last='') %}{% for m in messages %}{% set ns.last = m.content %}{% endfor %}{{ ns.last }}",
    "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.content }}{% break %}{% endfor %}",
    "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{{ messages[1].content }}{% endgeneration %}{{ x }}",
    "{% macro m(t) %}<{{ t }}>{% endmacro %}{{ m('a') }}{{ dict(a=1).a }}{{ dict.fromkeys(['k']) }}{{ range(3)|list }}",
    "{{ strftime_now('%%') }}{% if add_generation_prompt %}go{% endif %}{{ undefined_name }}",
]


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer()


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_shows_what_it_shows_in_transformers(renderer: Renderer, template: str) -> None:
    expected, _ = render_jinja_template([MESSAGES], chat_template=template, add_generation_prompt=True, **SPECIAL)
    assert renderer.render(template, MESSAGES, SPECIAL) == expected[0]


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ raise_exception('no system role') }}", "no system role"),
        ("{% for %}", "TemplateSyntaxError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{{ namespace(__class__=1) }}", "SecurityError"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
        ("{{ 'a' * 10 ** 10 }}", "MemoryError"),
        (
            "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
            "MemoryError",
        ),
        ("{{ 'a' * 9000000 }}", "a text of 9000000 characters"),
    ],
)
def test_a_template_that_refuses_or_fails_is_an_error_of_its_caller(
    renderer: Renderer, template: str, says: str
) -> None:
    with pytest.raises(InvalidInput, match=f"the adapter's chat template refuses the conversation: .*{says}"):
        renderer.render(template, MESSAGES, SPECIAL)


def test_a_template_without_end_is_ended_and_the_next_one_served() -> None:
    renderer = Renderer(seconds=0)  # of whole ones, the one that has begun besides
    hang = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(InvalidInput, match="was ended"):
        renderer.render(hang, MESSAGES, SPECIAL)
    assert renderer.render("{{ messages[0].content }}", MESSAGES, SPECIAL) == "be brief"


def test_the_process_knows_nothing_of_ours_and_goes_with_its_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORRY_WORKER_REGISTRY_TOKEN", "canary")
    renderer = Renderer()
    renderer.render("", MESSAGES, SPECIAL)
    process = renderer._process._process
    assert process is not None
    number = process.pid
    del process
    assert b"canary" not in Path(f"/proc/{number}/environ").read_bytes()
    del renderer
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


def test_jinja_keeps_templates_from_files_in_transformers_as_here() -> None:
    """What the model's own template, which runs here, may do."""
    for template in ("{{ ''.__class__.__mro__ }}", "{{ cycler.__init__.__globals__.os }}", "{{ messages.clear() }}"):
        with pytest.raises(jinja2.exceptions.SecurityError):
            render_jinja_template([MESSAGES], chat_template=template)

"""Chat templates: what transformers renders, clear refusals, and hostile templates held in."""

import pytest

from onebit.data import chat
from onebit.data.template_sandbox import run
from onebit.errors import FormatError, OptionError

USER = [{"role": "user", "content": "Hi"}]
TALK = [
    {"role": "system", "content": " Be brief. "},
    {"role": "user", "content": 'Why "é"?\n'},
    {"role": "assistant", "content": "Because."},
    {"role": "user", "content": "Go on"},
]
CHATML = """{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""
LLAMA = """{{ bos_token }}{% set ns = namespace(found=false) %}
{% for message in messages %}
    {% if message.role == 'system' and not ns.found %}
        {% set ns.found = true %}
        {{ '<<SYS>>' ~ message.content | trim ~ '<</SYS>>' }}
        {% continue %}
    {% endif %}
    {% if loop.last %}
L{{ loop.length }} {{ message | tojson }} {{ [1, 'é'] | tojson(indent=2) }}
    {% endif %}
    {{ loop.index0 }}{{ message.role | upper | replace('USER', 'U') }}:{{ message.content.strip() }}
    {% if message.role == 'assistant' %}
        {% generation %}{{ message.content }}{% endgeneration %}{{ eos_token }}
    {% endif %}
{% endfor %}
{% macro twice(x) %}{{ x }}{{ x }}{% endmacro %}
{% set block %}{{ twice('ab') | indent(2, first=true) }}{% endset %}
{{ block }}{{ ['a', 'b'] | join('-') }}{{ range(3) | list }}{{ tools is none }}
{{ 7 % 4 + 2 ** 3 * 2 }}{{ 'a' * 3 }}{{ 'x,y'.split(',')[-1] }}{{ messages[1:] | length }}
"""


@pytest.mark.parametrize("template", [CHATML, LLAMA])
@pytest.mark.parametrize("prompt", [True, False])
def test_same_text_as_transformers(template, prompt):
    from transformers.utils.chat_template_utils import render_jinja_template

    theirs, _ = render_jinja_template(
        [TALK],
        chat_template=template,
        add_generation_prompt=prompt,
        bos_token="<s>",
        eos_token="</s>",
    )
    ours = chat.render(
        template, TALK, add_generation_prompt=prompt, bos_token="<s>", eos_token="</s>"
    )
    assert ours == theirs[0]


def test_chatml_by_hand():
    expected = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert chat.render(CHATML, USER) == expected
    assert chat.render(CHATML, USER, add_generation_prompt=False) == expected[:-22]


@pytest.mark.parametrize("template", [None, ""])
def test_no_template(template):
    with pytest.raises(OptionError, match=r"no chat template\. Give it a plain prompt"):
        chat.render(template, USER)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("Hi", "messages is str"),
        ({"role": "user"}, "messages is dict"),
        ([], "no messages"),
        (["Hi"], "message 0 has role 'Hi'"),
        ([{"role": "boss", "content": "x"}], "role 'boss'; accepted: system"),
        ([{"role": "user"}], 'no "content"'),
        ([{"role": "user", "content": 3}], "content of message 0 is int"),
        ([{"role": "user", "content": "x", "name": None}], "name of message 0"),
    ],
)
def test_malformed_messages(messages, message):
    with pytest.raises(OptionError, match=message):
        chat.render(CHATML, messages)
    with pytest.raises(OptionError, match=message):
        chat.guard(messages, ["<s>"])


def test_the_template_refuses():
    template = "{{ raise_exception('roles must\nalternate') }}"
    with pytest.raises(OptionError, match="refuses these messages: roles must"):
        chat.render(template, USER)


def test_strftime_now():
    year = run("{{ strftime_now('%Y-%m') }}", {})
    assert len(year) == 7
    assert year[4] == "-"


HOSTILE = {
    "syntax": "{% for %}",
    "python": "{{ ''.__class__.__mro__ }}",
    "python through a filter": "{{ '' | attr('__class__') }}",
    "mutation": "{{ messages.append(1) }}",
    "undefined call": "{{ nothing() }}",
    "wrong type": "{{ 1 + 'a' }}",
    "range": "{% for i in range(10**9) %}{% endfor %}",
    "nested loops": "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
    "loop of text": "{% for i in range(99999) %}" + "x" * 1000 + "{% endfor %}",
    "loop of values": "{% set x = 'x' * 9999 %}{% for i in range(99999) %}{{ x }}{% endfor %}",
    "times": "{{ 'x' * 10**10 }}",
    "times a list": "{{ ([1] * 10**10) | length }}",
    "power": "{{ 9 ** 9 ** 9 }}",
    "squares": "{% set n = namespace(v=3) %}{% for i in range(99) %}{% set n.v = n.v * n.v %}"
    "{% endfor %}",
    "doubling": "{% set n = namespace(v='xx') %}{% for i in range(99) %}{% set n.v = n.v ~ n.v %}"
    "{% endfor %}",
    "doubling by +": "{% set n = namespace(v='xx') %}{% for i in range(99) %}"
    "{% set n.v = n.v + n.v %}{% endfor %}",
    "doubling in a block": "{% set n = namespace(v='xx') %}{% for i in range(99) %}"
    "{% set n.v %}{{ n.v }}{{ n.v }}{% endset %}{% endfor %}",
    "doubling by replace": "{% set n = namespace(v='xx') %}{% for i in range(99) %}"
    "{% set n.v = n.v.replace('x', 'xx') %}{% endfor %}",
    "doubling by join": "{% set n = namespace(v='xx') %}{% for i in range(99) %}"
    "{% set n.v = [n.v, n.v] | join %}{% endfor %}",
    "nested lists, printed": "{% set n = namespace(v=[1]) %}{% for i in range(99) %}"
    "{% set n.v = [n.v, n.v] %}{% endfor %}{{ n.v }}",
    "nested lists, json": "{% set n = namespace(v=[1]) %}{% for i in range(99) %}"
    "{% set n.v = [n.v, n.v] %}{% endfor %}{{ n.v | tojson }}",
    "nested lists, compared": "{% set n = namespace(v=[1], w=[1]) %}{% for i in range(99) %}"
    "{% set n.v = [n.v, n.v] %}{% set n.w = [n.w, n.w] %}{% endfor %}{{ n.v == n.w }}",
    "nested tuples, compared": "{% set n = namespace(v=1, w=1) %}{% for i in range(99) %}"
    "{% set n.v = (n.v, n.v) %}{% set n.w = (n.w, n.w) %}{% endfor %}{{ n.v == n.w }}",
    "nested dicts, compared": "{% set n = namespace(v=1, w=1) %}{% for i in range(99) %}"
    "{% set n.v = dict(a=n.v, b=n.v) %}{% set n.w = {'a': n.w, 'b': n.w} %}{% endfor %}"
    "{{ n.v == n.w }}",
    "recursion": "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "branching recursion": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}"
    "{% endmacro %}{{ f(90) }}",
    "format": "{{ '{:>9999999999}'.format('x') }}",
    "percent": "{{ '%9999999999d' % 1 }}",
    "center": "{{ 'x' | center(10**10) }}",
    "ljust": "{{ 'x'.ljust(10**10) }}",
    "to_bytes": "{{ (1).to_bytes(10**10) }}",
    "strftime": "{{ strftime_now('%9999999999d') }}",
    "indent": "{{ {'a': 1} | tojson(indent=10**9) }}",
    "lipsum": "{{ lipsum(n=10**6) }}",
    "include": "{% include '/etc/passwd' %}",
    "long": "x" * (1 << 20) + "y",
    "deep": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_hostile_templates(name):
    with pytest.raises(FormatError, match="chat template: ") as caught:
        chat.render(HOSTILE[name], USER)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("content", "specials"),
    [
        ("a<|end|>b", ["<|end|>"]),
        ("<|end|><|end|>", ["<|end|>"]),
        ("<<x", ["<<x", "<x"]),
        ("aaa", ["aa", "aaa"]),
        ("nothing", ["<|end|>", ""]),
        ("already \ufdd0 cut <|e\ufdd0nd|>", ["<|end|>"]),
    ],
)
def test_guard_cuts_every_special(content, specials):
    [message] = chat.guard([{"role": "user", "content": content}], specials)
    pieces = chat.split(message["content"])
    assert "".join(pieces) == content.replace("\ufdd0", "")
    assert not any(special in piece for piece in pieces for special in specials if special)


def test_guard_drops_a_special_of_one_character():
    assert chat.guard([{"role": "user", "content": "a§b"}], ["§"])[0]["content"] == "a\ufdd0b"
    assert chat.guard(USER, []) == USER

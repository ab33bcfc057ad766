#!/usr/bin/env python3
"""Writes what Jinja2 makes of expressions and templates, in the environment that transformers gives chat templates.

    pip install jinja2==3.1.6 && python3 tests/golden/jinja/make.py

Every file has a list of cases, [source, what was rendered], the second null where Jinja2 fails. The sources are in
expressions.txt, one a line, each put into braces after the prelude, and in templates.txt, whole templates between
lines of `----`, with \\r for a carriage return.
"""

import json
from datetime import datetime
from pathlib import Path

import jinja2
import jinja2.ext
import jinja2.nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = Path(__file__).parent
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " What is <b>\"two\"</b> & 2?\n"},
    {"role": "assistant", "content": "It's 4 \\ zwölf."},
    {"role": "user", "content": "Why?"},
]


class Generation(jinja2.ext.Extension):
    """The tag that marks what the assistant said, without its marks."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_said"), [], [], body).set_lineno(line)

    @jinja2.pass_eval_context
    def _said(self, context, caller):
        return caller()


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    return made


def render(made, source):
    try:
        template = made.from_string(source)
        return template.render(
            messages=[dict(message) for message in MESSAGES],
            add_generation_prompt=True,
            bos_token="<s>",
            eos_token="</s>",
            tools=None,
            documents=None,
        )
    except Exception:
        return None


def write(name, about):
    head = json.dumps(about, ensure_ascii=False, indent=1)[:-2]
    cases = ",\n".join(json.dumps(case, ensure_ascii=False) for case in about.pop("cases"))
    head = json.dumps(about, ensure_ascii=False, indent=1)[:-2]
    text = head + ',\n "cases": [\n' + cases + "\n ]\n}\n"
    json.loads(text)
    (HERE / name).write_text(text, encoding="utf-8")


def main():
    made = environment()
    lines = (HERE / "expressions.txt").read_text(encoding="utf-8").splitlines()
    prelude = "".join(line[2:] for line in lines if line.startswith("> "))
    sources = [line for line in lines if line and not line.startswith(("> ", "# "))]
    cases = [[source, render(made, prelude + "{{ " + source + " }}")] for source in sources]
    write("expressions.json", {"jinja2": jinja2.__version__, "prelude": prelude, "cases": cases})
    sources = (HERE / "templates.txt").read_text(encoding="utf-8").split("\n----\n")
    sources = [source.replace("\\r", "\r") for source in sources]
    write("templates.json", {"jinja2": jinja2.__version__, "cases": [[s, render(made, s)] for s in sources]})


if __name__ == "__main__":
    main()

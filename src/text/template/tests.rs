//! Templates as models have them, and templates that mean harm.

use super::*;
use crate::text::Role;

fn render(source: &str, messages: &[Message]) -> Result<String> {
    ChatTemplate::new(Path::new("m/chat_template.jinja"), source).render(messages, "<s>", "</s>")
}

fn talk() -> Vec<Message> {
    vec![Message::new(Role::System, "Be brief."), Message::new(Role::User, " Hi <b>\"you\"</b> ")]
}

#[test]
fn messages_become_a_prompt_with_the_whitespace_of_transformers() {
    let source = "{{ bos_token }}\n{%- for m in messages %}\n  {% if m.role == 'user' %}\n\
                  [{{ m['content'].strip() }}]\n  {% else %}\n({{ m.content | upper }})\n  {% endif %}\n\
                  {% endfor %}\n{% if add_generation_prompt %}A:{% endif %}\n";
    assert_eq!(render(source, &talk()).unwrap(), "<s>(BE BRIEF.)\n[Hi <b>\"you\"</b>]\nA:");
}

#[test]
fn python_methods_loop_controls_and_namespaces_work() {
    let source = "{% set ns = namespace(n=0) %}{% for m in messages[::-1] %}{% set ns.n = ns.n + 1 %}\
                  {% if m.role.startswith('sys') %}{% break %}{% endif %}\
                  {{ m.content.split(' ')[1] }}{% endfor %}{{ ns.n }}\
                  {% if tools is not none or documents %}tools{% endif %}";
    assert_eq!(render(source, &talk()).unwrap(), "Hi2");
}

#[test]
fn parts_are_what_templates_of_models_with_pictures_expect() {
    let source = "{% for m in messages %}{% for part in m.content %}\
                  {% if part.type == 'text' %}[{{ part['text'] }}]{% endif %}{% endfor %}{% endfor %}";
    let template = ChatTemplate::new(Path::new("t"), source);
    assert_eq!(
        template.render_as(ContentForm::Parts, &Conversation::new(&talk(), &[]), "", "").unwrap(),
        "[Be brief.][ Hi <b>\"you\"</b> ]"
    );
}

#[test]
fn strftime_now_gives_the_date_and_refuses_nonsense() {
    let date = render("{{ strftime_now('%d %b %Y') }}", &[]).unwrap();
    let parts: Vec<&str> = date.split(' ').collect();
    assert!(parts.len() == 3 && parts[0].len() == 2 && parts[2].parse::<u32>().is_ok_and(|y| y >= 2024), "{date}");
    assert!(render("{{ strftime_now('%') }}", &[]).is_err());
}

#[test]
fn what_a_template_refuses_is_told_with_file_and_line() {
    let error = render("one\n{{ raise_exception('roles must alternate') }}", &[]).unwrap_err();
    assert_eq!(error.to_string(), "`m/chat_template.jinja`, line 2: roles must alternate");
    let error = render("one\r\ntwo\r\n{{ missing.field }}", &[]).unwrap_err();
    assert!(matches!(error, Error::Template { line: Some(3), .. }), "{error}");
}

#[test]
fn a_broken_template_is_an_error_of_rendering_only() {
    let template = ChatTemplate::new(Path::new("t.jinja"), "one\n{% if %}");
    let error = template.render(&talk(), "", "").unwrap_err();
    assert!(matches!(&error, Error::Template { line: Some(2), .. }), "{error}");
    let fault = template.fault().unwrap();
    assert!(fault.contains("`t.jinja`, line 2: it is no Jinja template"), "{fault}");
    assert_eq!(ChatTemplate::new(Path::new("t.jinja"), "{{ nope() }}").fault(), None);
}

/// Each of these would take hours, gigabytes or the whole stack of a program.
#[test]
fn a_template_can_neither_hang_nor_fill_the_memory_nor_end_the_program() {
    for source in [
        "{% for a in range(9999) %}{% for b in range(9999) %}{{ a * b }}{% endfor %}{% endfor %}",
        "{{ 'a' * 10**9 }}",
        "{{ 'a' * 10**8 }}",
        "{{ 'a'.ljust(10**9) }}{{ 'a'.zfill(10**12) }}",
        "{{ 'a'.center(10**9) }}",
        "{{ 'a' | center(10**9) }}",
        "{{ '\t' .expandtabs(10**9) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '{:>1000000000}'.format('a') }}",
        "{{ '{:>{}}'.format('a', 1000000000) }}",
        "{{ 'a' | indent(10**9, true) }}",
        "{{ {'a': 1} | tojson(indent=10**9) }}",
        "{{ range(10**9) | list }}",
        "{{ ([0] * 10**8) | length }}{{ ([0] * 10**8) | list }}",
        "{{ (range(99999) | list) * 1000 | join(',') }}",
        "{% set x = 'a' * 10**6 %}{{ x.replace('a', x) }}",
        "{% set x = 'a' * 10**6 %}{{ x | replace('a', x) }}",
        "{% set x = 'a' * 10**6 %}{{ ([x] * 10**6) | join }}",
        "{% set x = 'a' * 10**6 %}{{ x.join([x] * 10**6) }}",
        "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x=['a']) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}\
         {% endfor %}{{ ns.x | tojson }}",
        "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}\
         {% set ns.y = [ns.y, ns.y] %}{% endfor %}{{ ns.x == ns.y }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}\
         {% endfor %}{{ ns.x ~ 'a' }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}\
         {% endfor %}{{ {ns.x: 1} }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}\
         {{ [ns.x, ns.x + [1]] | sort | length }}{{ ns.x is eq(ns.x + []) }}",
        "{% set a = namespace() %}{% set a.a = a %}{% set b = namespace() %}{% set b.a = b %}{{ a == b }}",
        "{% set l = [0] * 10**8 %}{{ l.index(1) }}",
        "{% set l = [(1, 2)] * 10**8 %}{{ dict(l) }}",
        "{{ [1] | batch(10**9, 'x') | list }}",
        "{{ [1] | slice(10**9) | list }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{{ 2 ** 99999999999 }}",
    ] {
        let begin = std::time::Instant::now();
        let error = match render(source, &talk()) {
            Err(error) => error,
            Ok(text) => panic!("{source}: {} bytes", text.len()),
        };
        assert!(matches!(error, Error::Template { .. }), "{source}: {error}");
        assert!(begin.elapsed().as_secs() < 20, "{source}");
    }
}

/// What a template nests in loops is refused at a few levels; what it spells out is bounded by its length. Both in all
/// ways to nest a value, and with a message that gives the template much fuel.
#[test]
fn values_nested_without_end_do_not_overflow_the_stack() {
    let long = [Message::new(Role::User, "a".repeat(1_000_000))];
    for nested in [
        "[#]",
        "(#,)",
        "{'a': #}",
        "{'a': 1, 'b': [#]}",
        "namespace(a=#)",
        "dict(a=#)",
        "[#][:]",
        "#[:]",
        "#[::-1]",
        "# * 1",
        "# + []",
        "[] + #",
        "# | list",
        "# | reverse",
        "# | batch(1)",
        "# | batch(1) | list",
        "# | slice(1)",
        "[#] | map('list')",
        "[#] | select",
        "[#[0][:]] | list",
        "[# | first | reverse]",
        "{'a': #}.items() | list",
        "{'a': #}.values()",
        "cycler(#)",
        "joiner(#)",
        "[loop]",
        "[#] | sort",
        "[#] | unique",
        "[#] | groupby(0)",
        "#.x | default(#)",
        "# if i else [#]",
        "ns",
    ] {
        let looped = nested.replace('#', "ns.x");
        let head = "{% set ns = namespace(x=[1]) %}";
        let looped = format!("{head}{{% for i in range(30000) %}}{{% set ns.x = {looped} %}}{{% endfor %}}");
        let one = format!("{{% set x = {} %}}", nested.replace('#', "x"));
        let spelt =
            format!("{head}{{% set x = [1] %}}{{% set i = 1 %}}{}", one.repeat((TEMPLATE_BYTES - 200) / one.len()));
        for last in ["{{ x | length }}{{ x == ns.x }}", "{{ ns.x }}{{ x ~ ns }}"] {
            let _ = render(&format!("{looped}{last}"), &long);
            let _ = render(&format!("{spelt}{last}"), &long);
        }
    }
}

/// The most values in values that a flat template has; it is dropped on the caller's stack.
#[test]
fn a_flat_template_stays_compiled_and_takes_little_stack_to_drop() {
    let mut rendered = 0;
    for nested in ["[x]", "(x,)", "{'a': x}", "x + [1]", "[1] + x", "x | reverse", "x | list"] {
        let one = format!("{{% set x = {nested} %}}");
        let cost = one.bytes().filter(|byte| NESTING.contains(byte)).count();
        let levels = one.repeat((FLAT_NESTINGS - 10) / cost);
        let source = format!("{{% set x = [1] %}}{levels}{{{{ x | length }}}}{{{{ messages[0].content }}}}");
        let template = ChatTemplate::new(Path::new("t"), &source);
        assert!(template.is_flat && !ChatTemplate::new(Path::new("t"), &source.repeat(2)).is_flat);
        // Some ways to nest are refused at a few levels, each time.
        let twice = move || [(); 2].map(|()| template.render(&talk(), "", "").map_err(|error| error.to_string()));
        let [first, second] = std::thread::Builder::new().stack_size(128 << 10).spawn(twice).unwrap().join().unwrap();
        assert_eq!(first, second);
        rendered += usize::from(first.is_ok());
    }
    assert!(rendered > 2, "{rendered}");
    let calling = "{% macro f(x) %}{{ x }}{% endmacro %}{{ f(messages[0].content) }}";
    let template = ChatTemplate::new(Path::new("t"), calling);
    assert!(!template.is_flat);
    assert_eq!(template.render(&talk(), "", "").unwrap(), talk()[0].content);
    // One that takes too many steps does so each time.
    let long = ChatTemplate::new(
        Path::new("t"),
        "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
    );
    assert!(long.is_flat && long.render(&talk(), "", "").is_err() && long.render(&talk(), "", "").is_err());
}

#[test]
fn what_a_namespace_keeps_is_what_was_put_into_it() {
    let source = "{% set ns = namespace(l=[], t=()) %}{% for m in messages %}{% set ns.l = ns.l + [m.role] %}\
                  {% set ns.t = ns.l[::-1], {'a': ns.l[:1]} %}{% endfor %}{{ ns.l }}{{ ns.t }}{% set ns.a = ns.l[1:] %}\
                  {{ ns.a | length }}{{ ns.a }}{% set ns.b = 1 if ns.a else 2 %}{{ ns.b }}";
    let expected = "['system', 'user'](['user', 'system'], {'a': ['system']})1['user']1";
    assert_eq!(render(source, &talk()).unwrap(), expected);
}

#[test]
fn a_template_is_not_longer_than_a_book_and_its_brackets_end() {
    let error = render(&"a".repeat(TEMPLATE_BYTES + 1), &talk()).unwrap_err().to_string();
    assert!(error.contains("262145 bytes") && error.contains("262144"), "{error}");
    for (open, close) in
        [("(", ")"), ("[", "]"), ("{'a':", "}"), ("f(", ")"), ("[", ""), ("", ")"), ("not ", ""), ("-", "")]
    {
        for times in [199, 10_000] {
            let _ = render(&format!("{{{{ {}1{} }}}}", open.repeat(times), close.repeat(times)), &talk());
        }
    }
    for block in [
        "{% if 1 %}",
        "{% for a in [1] %}",
        "{% with %}",
        "{% macro f() %}",
        "{% raw %}",
        "{% generation %}",
        "{#",
        "{{",
    ] {
        assert!(render(&block.repeat(20_000), &talk()).is_err(), "{block}");
    }
    for tail in [" + 1", " ~ 1", " if 1 else 1", " | abs", ".a", "[0]", " and 1", " == 1", " % 'a'", "()", ", 1"] {
        let _ = render(&format!("{{{{ 1{} }}}}", tail.repeat(20_000)), &talk());
    }
}

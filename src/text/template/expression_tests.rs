//! Expressions before and after.

use super::environment::{GUARD_FUNCTION, KEEP_FUNCTION, PERCENT_FILTER, TEXT_FUNCTION};
use super::source::prepare;

fn is(source: &str, expected: &str) {
    let expected = expected.replace("T(", &format!("{TEXT_FUNCTION}(")).replace("G(", &format!("{GUARD_FUNCTION}("));
    assert_eq!(prepare(source), expected.replace("|F(", &format!("|{PERCENT_FILTER}(")));
}

#[test]
fn texts_are_filled_in_and_numbers_divided() {
    is("{{ '%s' % x.y[0] | f(1) + 2 }}", "{{ ('%s'|F(x.y[0] | f(1))) + 2 }}");
    is("{% set a = f(b % ('x', 1)) %}", "{% set a = f((b|F(('x', 1)))) %}");
    for same in ["{{ 7 % 2 }}", "{{ a % b }}", "{{ loop.index0 % 2 }}", "{{ (a) % (b) }}", "{{ '%' }}", "{{ x"] {
        is(same, same);
    }
}

#[test]
fn both_sides_of_a_tilde_are_texts_before_they_are_joined() {
    is("{{ a ~ -b.c | f(1 ~ d) + 'x' }}", "{{ T(a) ~ T(-b.c | f(1 ~ T(d))) + 'x' }}");
    is("{{- a ~ b -}}{%- if a ~ 'b' -%}", "{{- T(a) ~ T(b) -}}{%- if T(a) ~ 'b' -%}");
    is("{% set x = [a ~ b is string, 1] %}", "{% set x = [T(a) ~ T(b is string), 1] %}");
    is("{{ a ~ '%s' % b if c else d ~ e }}", "{{ T(a) ~ T(('%s'|F(b))) if c else T(d) ~ T(e) }}");
}

#[test]
fn what_a_namespace_keeps_is_looked_through() {
    let keep = KEEP_FUNCTION;
    assert_eq!(prepare("{%- set ns.a = b[1:] -%}"), format!("{{%- set ns.a = {keep}(( b[1:] ))-%}}"));
    assert_eq!(prepare("{% set ns.a, ns.b = 1, 2 %}"), format!("{{% set ns.a, ns.b = {keep}(( 1, 2 ))%}}"));
    assert_eq!(prepare("{% set a = b[1:] %}"), format!("{{% set a = {keep}(( b[1:] ))%}}"));
    for same in ["{% set a = b.c %}", "{% set a %}", "{% set a | f(b=c.d) %}", "{% set a, b = c.d %}"] {
        is(same, same);
    }
}

#[test]
fn what_is_compared_or_looked_up_is_guarded() {
    is("{% if not a * 2 ~ b == c and m.role != 'x' %}", "{% if not G(T(a * 2) ~ T(b)) == G(c) and G(m.role) != 'x' %}");
    is("{% for a in b if a not in c %}", "{% for a in b if G(a) not in G(c) %}");
    is("{% for a, (b, c) in d.items() %}", "{% for a, (b, c) in d.items() %}");
    is("{{ {a: b, 'c': d}[e] }}{{ f[g:h] }}{{ [i][0] }}", "{{ {G(a): b, 'c': d}[G(e)] }}{{ f[g:h] }}{{ [i][0] }}");
    is("{{ a is in b }}{{ a is not in(b) }}{{ f(a=b) }}", "{{ a is in b }}{{ a is not in(b) }}{{ f(a=b) }}");
    is("{%- if a != 'b' -%}{{ a == b -}}", "{%- if G(a) != 'b' -%}{{ G(a) == G(b) -}}");
    is("{{ loop.changed(a, b) }}", "{{ loop.changed(G(a), G(b)) }}");
}

//! Chat templates render as Jinja2 renders them: every case of `tests/golden/jinja` beside what Jinja2 made of it.

use std::collections::HashSet;
use std::path::Path;

use edge_run::internals::text::{ChatTemplate, Message, Role};

/// Where minijinja cannot be brought to agree, by reason. Each of these must still differ.
const DIFFERENT: &[(&str, &[&str])] = &[
    (
        "values of several types are compared, where Python refuses",
        &["none < 1", "'a' < 1", "1 in 'abc'", "[1, 'a'] | sort", "m | dictsort(true, 'value', false)"],
    ),
    ("there is no sign `+` before a value, and none before a truth value", &["+3", "-true"]),
    ("a tuple needs its parentheses where it is printed", &["1, 2"]),
    (
        "str.format has neither `!r` nor `%`, and counts the bytes of a width",
        &["'{!r}'.format('a')", "'{:%}'.format(0.25)", "'{:<4}|'.format('é')"],
    ),
    ("Rust knows neither title case nor the numbers of letters", &["'ǆ'.title()", "'四'.isnumeric()"]),
    (
        "bytes and tables of characters are not for prompts",
        &["'abc'.encode() | length", "'abc'.maketrans('a', 'b')", "'abc'.translate({97: 'x'})"],
    ),
    ("the pairs of groupby are no tuples when printed", &["rows | groupby('k')"]),
    ("attr finds items as well as attributes", &["rows | map('attr', 'v') | list", "m | attr('name')"]),
    ("these make random text or markup", &["l | random in l", "m | xmlattr", "lipsum is defined"]),
    (
        "what is made item by item counts as a list",
        &[
            "(l | map('string')) is sequence",
            "range(3)",
            "range(3) | tojson",
            "(l | map('string')) | tojson",
            "d.items()",
            "m.keys()",
            "m.values()",
            "m.items()",
            "m.items() | tojson",
            "namespace(a=1) | tojson",
        ],
    ),
    ("filters of texts take other values too", &["5 | indent", "none | indent", "['a', 'b'] | sum(start='')"]),
    (
        "texts cannot be unpacked",
        &["{% set a, b = 'xy' %}{{ a }}{{ b }}", "{% for a, b in [(1, 2), [3, 4], 'xy'] %}{{ a }}{{ b }};{% endfor %}"],
    ),
    ("a loop over None is empty", &["{% for x in none %}x{% endfor %}", "{% for x in tools %}x{% endfor %}"]),
    (
        "macros take the arguments that they name, and are no values to print",
        &[
            "{% macro f(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, 3, x=4) }}",
            "{% macro f(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ f(1) }}",
            "{% macro f(x) %}{{ x }}{% endmacro %}{{ f.name }}{{ f.arguments }}",
            "{% macro f() %}a{% endmacro %}{{ f }}",
            "{% macro f() %}a{% endmacro %}{{ f is callable }}{{ f is defined }}{{ g is defined }}",
        ],
    ),
    ("there are no other templates, so that a missing one may be ignored", &["{% include 'x' ignore missing %}a"]),
    (
        "some names are reserved, others are not",
        &[
            "{% set loop = 1 %}{{ loop }}",
            "{% set ns = namespace(_a=1) %}{{ ns._a is defined }}",
            "{% for in x %}{% endfor %}",
        ],
    ),
];

fn render(source: &str) -> Result<String, String> {
    let messages = [
        Message::new(Role::System, "Be brief."),
        Message::new(Role::User, " What is <b>\"two\"</b> & 2?\n"),
        Message::new(Role::Assistant, "It's 4 \\ zwölf."),
        Message::new(Role::User, "Why?"),
    ];
    ChatTemplate::new(Path::new("t.jinja"), source).render(&messages, "<s>", "</s>").map_err(|e| e.to_string())
}

/// Compares all cases of a golden file, in braces where these are expressions; gives those that differ.
fn compare(file: &str, braces: bool) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/jinja").join(file);
    let golden: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let prelude = golden["prelude"].as_str().unwrap_or_default();
    let known: HashSet<&str> = DIFFERENT.iter().flat_map(|(_, sources)| *sources).copied().collect();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() > 250, "{file} has only {} cases", cases.len());
    let (mut different, mut wrong) = (Vec::new(), Vec::new());
    for case in cases {
        let (source, expected) = (case[0].as_str().unwrap(), case[1].as_str());
        let got = if braces { render(&format!("{prelude}{{{{ {source} }}}}")) } else { render(source) };
        if got.as_deref().ok() != expected {
            different.push(source.to_string());
            if !known.contains(source) {
                wrong.push(format!("{source:?}\n  Jinja2 {expected:?}\n  here   {got:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} cases of {file} differ:\n{}", wrong.len(), wrong.join("\n"));
    different
}

#[test]
fn templates_and_expressions_render_as_jinja2_renders_them() {
    let mut different = compare("expressions.json", true);
    different.extend(compare("templates.json", false));
    for (reason, sources) in DIFFERENT {
        for source in *sources {
            assert!(different.iter().any(|d| d == source), "{source:?} is no longer different, or no case: {reason}");
        }
    }
}

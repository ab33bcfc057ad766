//! A template's source as minijinja takes it: line ends and tags that Jinja2 knows and minijinja does not.

use super::expression::code;

/// `source` with its byte order mark dropped, its line ends those of Unix, `generation` blocks as plain scopes, and
/// the operators of its expressions as [`code`] has them. Lines keep their numbers.
pub(super) fn prepare(source: &str) -> String {
    let source = source.strip_prefix('\u{feff}').unwrap_or(source);
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some(at) = rest.find('{').filter(|at| at + 1 < rest.len()) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let length = match rest.as_bytes()[1] {
            b'{' => code(rest, "}}", &mut out),
            b'%' => tag(rest, &mut out),
            b'#' => copy(rest, rest.find("#}").map_or(rest.len(), |end| end + 2), &mut out),
            _ => copy(rest, 1, &mut out),
        };
        rest = &rest[length..];
    }
    out.push_str(rest);
    out
}

/// Copies the first `length` bytes of `rest`.
fn copy(rest: &str, length: usize, out: &mut String) -> usize {
    out.push_str(&rest[..length]);
    length
}

/// The length of the raw block that `rest` goes on with from `at`; one that is not closed reaches to the end.
fn raw_end(rest: &str, mut at: usize) -> usize {
    while let Some(next) = rest[at..].find("{%") {
        at += next;
        if let Some((end, _)) = bare_tag(&rest[at..], "endraw") {
            return at + end;
        }
        at += 2;
    }
    rest.len()
}

/// The length of the tag that `rest` begins with and its sign before `%}`, if the tag is `name` and nothing else.
fn bare_tag(rest: &str, name: &str) -> Option<(usize, Option<char>)> {
    let inner = rest.strip_prefix("{%")?;
    let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner).trim_start().strip_prefix(name)?.trim_start();
    let sign = inner.chars().next().filter(|c| matches!(c, '-' | '+'));
    let end = inner.strip_prefix(['-', '+']).unwrap_or(inner).strip_prefix("%}")?;
    Some((rest.len() - end.len(), sign))
}

/// Copies the tag that `rest` begins with, and gives its length.
fn tag(rest: &str, out: &mut String) -> usize {
    if let Some((begin, sign)) = bare_tag(rest, "raw") {
        // Jinja2 keeps the line break after this tag, which minijinja keeps where the tag ends in `+%}`.
        out.push_str(&rest[..begin - 2]);
        out.push_str(if sign.is_none() { "+" } else { "" });
        let end = raw_end(rest, begin);
        out.push_str(&rest[begin - 2..end]);
        return end;
    }
    // A macro's body, as Jinja2 has it here, keeps to itself what is set in it.
    for (name, instead) in [("generation", "with"), ("endgeneration", "endwith")] {
        if let Some((length, _)) = bare_tag(rest, name) {
            out.push_str(&rest[..length].replacen(name, instead, 1));
            return length;
        }
    }
    code(rest, "%}", out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_tags_are_scopes_outside_of_texts_comments_and_raw_blocks() {
        let source = "{%- generation -%}a{%\nendgeneration %}{{ '{% generation %}' }}{# {% generation %} #}";
        let expected = "{%- with -%}a{%\nendwith %}{{ '{% generation %}' }}{# {% generation %} #}";
        assert_eq!(prepare(source), expected);
        assert_eq!(prepare("{% raw -%}{% generation %}{% endraw %}"), "{% raw -%}{% generation %}{% endraw %}");
        assert_eq!(prepare("{% generation x %}"), "{% generation x %}");
    }

    #[test]
    fn marks_and_line_ends_of_windows_are_gone() {
        assert_eq!(prepare("\u{feff}a\r\nb\rc\n"), "a\nb\nc\n");
    }

    #[test]
    fn sources_of_every_shape_are_taken() {
        for odd in [
            "{",
            "{%",
            "{{",
            "{#",
            "{{ '",
            "{{ ( }}",
            "{{ ) % ( }}",
            "{% raw",
            "{{ '' %",
            "{{ % }}",
            "{{ 'a' % }}",
            "{{ ~ }}",
            "{{ a ~ }}",
            "{{ ~~ a }}",
            "{{ - ~ - }}",
            "{% ~ %}",
            "{{ a ~ ( }}",
        ] {
            prepare(odd);
        }
    }
}

//! A template's source as minijinja takes it: line ends, tags and operators that Jinja2 knows and minijinja does not.

use super::environment::{PERCENT_FILTER, TEXT_FUNCTION};

/// `source` with its byte order mark dropped, its line ends those of Unix, `generation` blocks as plain scopes,
/// `'text' % value` as a call of the filter [`PERCENT_FILTER`], and both sides of `~` as calls of [`TEXT_FUNCTION`],
/// which writes values as Python does and within the fuel. Lines keep their numbers.
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

/// Copies the braces that `rest` begins with, which `close` ends, and gives their length.
fn code(rest: &str, close: &str, out: &mut String) -> usize {
    let Some((tokens, length)) = tokens(rest, close) else {
        out.push_str(rest);
        return rest.len();
    };
    // The sign of white space and the word that a tag begins with are no part of an expression.
    let signed = tokens.first().is_some_and(|token| token.start == 2 && matches!(rest.as_bytes()[2], b'-' | b'+'));
    let mut first = usize::from(signed);
    first += usize::from(close == "%}" && tokens.get(first).is_some_and(|token| token.kind == Kind::Word));
    let from = first.checked_sub(1).map_or(2, |last| tokens[last].end);
    out.push_str(&rest[..from]);
    rewrite(rest, &tokens[first..], from, length - 2, out);
    out.push_str(close);
    length
}

/// What a piece of an expression is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Word,
    Number,
    Open,
    Close,
    Sign,
}

/// A piece of an expression: where it lies in its source.
#[derive(Debug, Clone, Copy)]
struct Token {
    kind: Kind,
    start: usize,
    end: usize,
}

/// The pieces between the first two bytes of `rest` and the `close` that ends them, and the length of it all.
fn tokens(rest: &str, close: &str) -> Option<(Vec<Token>, usize)> {
    let bytes = rest.as_bytes();
    let (mut found, mut open, mut at) = (Vec::new(), 0_usize, 2);
    while at < bytes.len() {
        let start = at;
        // Dictionaries end in braces too.
        if rest[at..].starts_with(close) && (open == 0 || close == "%}") {
            return Some((found, at + 2));
        }
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80;
        let kind = match bytes[at] {
            b if b.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            quote @ (b'"' | b'\'') => {
                at += 1;
                while at < bytes.len() && bytes[at] != quote {
                    at += 1 + usize::from(bytes[at] == b'\\');
                }
                if at >= bytes.len() {
                    return None;
                }
                at += 1;
                Kind::Text
            }
            b'(' | b'[' | b'{' => {
                (open, at) = (open + 1, at + 1);
                Kind::Open
            }
            b')' | b']' | b'}' => {
                (open, at) = (open.saturating_sub(1), at + 1);
                Kind::Close
            }
            b if word(b) => {
                at += bytes[at..].iter().take_while(|b| word(**b)).count();
                if b.is_ascii_digit() { Kind::Number } else { Kind::Word }
            }
            _ => {
                at += 1;
                Kind::Sign
            }
        };
        found.push(Token { kind, start, end: at });
    }
    None
}

/// Copies `source[from..to]`, which `tokens` are the pieces of, with what minijinja has no operator for as calls.
fn rewrite(source: &str, tokens: &[Token], from: usize, to: usize, out: &mut String) {
    let (mut copied, mut i) = (from, 0);
    while i < tokens.len() {
        let end = side_after(source, tokens, i);
        let tilde = |i: usize| tokens.get(i).is_some_and(|token| &source[token.start..token.end] == "~");
        if i < end && (tilde(end) || (i > 0 && tilde(i - 1))) {
            let (start, stop) = (tokens[i].start, tokens[end - 1].end);
            out.push_str(&source[copied..start]);
            out.push_str(TEXT_FUNCTION);
            out.push('(');
            formats(source, &tokens[i..end], start, stop, out);
            out.push(')');
            copied = stop;
        } else if i < end {
            formats(source, &tokens[i..end], copied, tokens[end - 1].end, out);
            copied = tokens[end - 1].end;
        }
        // The piece that ends the side.
        if let Some(token) = tokens.get(end) {
            out.push_str(&source[copied..token.end]);
            copied = token.end;
        }
        i = end + 1;
    }
    out.push_str(&source[copied..to]);
}

/// The index after what may stand on one side of `~`, which begins at `i`: all up to an operator that binds less.
fn side_after(source: &str, tokens: &[Token], i: usize) -> usize {
    let text = |token: &Token| &source[token.start..token.end];
    let mut at = i;
    while let Some(token) = tokens.get(at) {
        let before = at.checked_sub(1).filter(|before| *before >= i).map(|before| &tokens[before]);
        // A sign is one of a number where no operand is before it.
        let operand_before = before.is_some_and(|b| {
            matches!(b.kind, Kind::Text | Kind::Number | Kind::Close) || (b.kind == Kind::Word && !is_operator(text(b)))
        });
        let after_is = before.is_some_and(|b| text(b) == "is");
        match (token.kind, text(token)) {
            (Kind::Open, _) => at = closing(tokens, at),
            (Kind::Sign, "~" | "," | ":" | "=" | "!" | "<" | ">") => return at,
            (Kind::Sign, "+" | "-") if operand_before => return at,
            (Kind::Word, "is") => {}
            (Kind::Word, "not") if after_is => {}
            (Kind::Word, word) if is_operator(word) && !matches!(before.map(text), Some("." | "|" | "is")) => {
                return at;
            }
            _ => {}
        }
        at += 1;
    }
    at.min(tokens.len())
}

/// Copies `source[from..to]`, one side of an operator, with `'text' % value` as a filter.
fn formats(source: &str, tokens: &[Token], from: usize, to: usize, out: &mut String) {
    let text = |token: &Token| &source[token.start..token.end];
    let (mut copied, mut i) = (from, 0);
    // Where in `out` the operand before the token begins, and whether it is nothing but literal text.
    let mut operand: Option<(usize, bool)> = None;
    while let Some(token) = tokens.get(i) {
        out.push_str(&source[copied..token.start]);
        let before = i.checked_sub(1).map(|before| &tokens[before]);
        let glued = before.is_some_and(|b| matches!(text(b), "." | "|"));
        match token.kind {
            Kind::Sign if text(token) == "%" && operand.is_some() => {
                let right = operand_after(source, tokens, i + 1);
                let fills = matches!(operand, Some((_, true))) || is_text_or_tuple(source, &tokens[i + 1..right]);
                if let (Some((start, _)), true, Some(last)) = (operand, fills, tokens[i + 1..right].last()) {
                    out.insert(start, '(');
                    out.truncate(out.trim_end_matches([' ', '\t']).len());
                    out.push_str(&format!("|{PERCENT_FILTER}("));
                    formats(source, &tokens[i + 1..right], token.end, last.end, out);
                    out.push_str("))");
                    (copied, i, operand) = (last.end, right, Some((start, false)));
                    continue;
                }
                operand = None;
            }
            Kind::Sign if matches!(text(token), "." | "|") => {}
            Kind::Sign => operand = None,
            Kind::Text if before.is_some_and(|b| b.kind == Kind::Text) => {}
            Kind::Text => operand = Some((out.len(), true)),
            Kind::Word if glued => operand = operand.map(|(start, _)| (start, false)),
            Kind::Word if is_operator(text(token)) => operand = None,
            Kind::Word | Kind::Number => operand = Some((out.len(), false)),
            Kind::Open => {
                operand = operand.map(|(start, _)| (start, false)).or(Some((out.len(), false)));
                let close = closing(tokens, i);
                let inner_end = tokens.get(close).map_or(to, |close| close.start);
                out.push_str(text(token));
                rewrite(source, &tokens[i + 1..close.min(tokens.len())], token.end, inner_end, out);
                (copied, i) = (inner_end, close);
                continue;
            }
            Kind::Close => {}
        }
        out.push_str(text(token));
        (copied, i) = (token.end, i + 1);
    }
    out.push_str(&source[copied..to]);
}

/// The index of the token that closes the one at `open`, or that after the last.
fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_usize;
    for (i, token) in tokens.iter().enumerate().skip(open) {
        match token.kind {
            Kind::Open => depth += 1,
            Kind::Close if depth == 1 => return i,
            Kind::Close => depth -= 1,
            _ => {}
        }
    }
    tokens.len()
}

/// The index after the operand that begins at `i`, with its signs, attributes, subscripts, calls and filters.
fn operand_after(source: &str, tokens: &[Token], mut i: usize) -> usize {
    let text = |i: usize| tokens.get(i).map_or("", |token: &Token| &source[token.start..token.end]);
    while matches!(text(i), "-" | "+") {
        i += 1;
    }
    match tokens.get(i).map(|token| token.kind) {
        Some(Kind::Open) => i = closing(tokens, i) + 1,
        Some(Kind::Text) => i += tokens[i..].iter().take_while(|token| token.kind == Kind::Text).count(),
        Some(Kind::Word | Kind::Number) => i += 1,
        _ => return i,
    }
    loop {
        match (text(i), tokens.get(i).map(|token| token.kind)) {
            ("." | "|", _) => i += 2,
            (_, Some(Kind::Open)) => i = closing(tokens, i) + 1,
            _ => return i.min(tokens.len()),
        }
    }
}

/// Whether an operand can only be meant for a text to be filled in: a text, or values in parentheses with commas.
fn is_text_or_tuple(source: &str, operand: &[Token]) -> bool {
    let text = |token: &Token| &source[token.start..token.end];
    match operand {
        [only] => only.kind == Kind::Text,
        [first, .., _] if text(first) == "(" && closing(operand, 0) + 1 == operand.len() => {
            let mut depth = 0_i32;
            operand.iter().any(|token| {
                depth += i32::from(token.kind == Kind::Open) - i32::from(token.kind == Kind::Close);
                depth == 1 && text(token) == ","
            })
        }
        _ => false,
    }
}

/// Whether a word stands between operands.
fn is_operator(word: &str) -> bool {
    matches!(word, "and" | "or" | "not" | "in" | "is" | "if" | "else" | "recursive")
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
    fn texts_are_filled_in_and_numbers_divided() {
        let filter = PERCENT_FILTER;
        assert_eq!(prepare("{{ '%s' % x.y[0] | f(1) + 2 }}"), format!("{{{{ ('%s'|{filter}( x.y[0] | f(1))) + 2 }}}}"));
        assert_eq!(prepare("{% set a = f(b % ('x', 1)) %}"), format!("{{% set a = f((b|{filter}( ('x', 1)))) %}}"));
        let text = TEXT_FUNCTION;
        assert_eq!(
            prepare("{{ a ~ -b.c | f(1 ~ d) + 'x' }}"),
            format!("{{{{ {text}(a) ~ {text}(-b.c | f({text}(1) ~ {text}(d))) + 'x' }}}}")
        );
        assert_eq!(
            prepare("{% if not a * 2 ~ b == c if d ~ '%s' % e else f %}"),
            format!("{{% if not {text}(a * 2) ~ {text}(b) == c if {text}(d) ~ {text}(('%s'|{filter}( e))) else f %}}")
        );
        assert_eq!(
            prepare("{{- a ~ b -}}{%- if a ~ b -%}"),
            format!("{{{{- {text}(a) ~ {text}(b) -}}}}{{%- if {text}(a) ~ {text}(b) -%}}")
        );
        assert_eq!(
            prepare("{% set x = [a ~ b is string, 1] %}"),
            format!("{{% set x = [{text}(a) ~ {text}(b is string), 1] %}}")
        );
        for same in ["{{ 7 % 2 }}", "{{ a % b }}", "{{ loop.index0 % 2 == 0 }}", "{{ (a) % (b) }}", "{{ '%' }}", "{{ x"]
        {
            assert_eq!(prepare(same), same);
        }
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

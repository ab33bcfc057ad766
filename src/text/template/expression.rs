//! The expressions of a template with calls in place of operators that minijinja lacks, or that have no limit in it.

use super::environment::{GUARD_FUNCTION, KEEP_FUNCTION, PERCENT_FILTER, TEXT_FUNCTION};

/// Copies the braces that `rest` begins with, which `close` ends, and gives their length. In them `'text' % value`
/// becomes a call of the filter [`PERCENT_FILTER`]; both sides of `~` become calls of [`TEXT_FUNCTION`], which writes
/// values as Python does and within the fuel; what is compared, or looked up, goes through [`GUARD_FUNCTION`]; and what
/// a namespace is to keep, or a slice is in, through [`KEEP_FUNCTION`].
pub(super) fn code(rest: &str, close: &str, out: &mut String) -> usize {
    let Some((tokens, length)) = tokens(rest, close) else {
        out.push_str(rest);
        return rest.len();
    };
    let text = |token: &ExpressionToken| &rest[token.start..token.end];
    // The sign of white space and the word that a tag begins with are no part of an expression, nor is what a loop
    // gives names to.
    let signed = tokens.first().is_some_and(|token| token.start == 2 && matches!(text(token), "-" | "+"));
    let mut first = usize::from(signed);
    if close == "%}" && tokens.get(first).is_some_and(|token| token.kind == Kind::Word) {
        let names = (text(&tokens[first]) == "for").then(|| tokens.iter().position(|token| text(token) == "in"));
        first = names.flatten().unwrap_or(first) + 1;
    }
    let keeps = first > 0 && text(&tokens[first - 1]) == "set";
    let equals = tokens.iter().position(|token| text(token) == "=").filter(|_| keeps);
    // Namespaces keep values from one round of a loop to the next, and views of views are slow.
    let has = |range: &[ExpressionToken], sign: &str| range.iter().any(|token| text(token) == sign);
    let keeps = equals.filter(|at| has(&tokens[first..*at], ".") || has(&tokens[*at..], ":"));
    first = keeps.map_or(first, |equals| equals + 1);
    let from = first.checked_sub(1).map_or(2, |last| tokens[last].end);
    let signed =
        |token: &&ExpressionToken| token.end == length - 2 && token.start >= from && matches!(text(token), "-" | "+");
    let (to, last) = match tokens.last().filter(signed) {
        Some(sign) => (sign.start, tokens.len() - 1),
        None => (length - 2, tokens.len()),
    };
    out.push_str(&rest[..from]);
    let piece = Piece { source: rest, tokens: &tokens[first..last.max(first)], from, to };
    match keeps {
        Some(_) => {
            // Values with commas between them are one.
            out.push_str(&format!(" {KEEP_FUNCTION}(("));
            piece.rewrite(Group::Other, out);
            out.push_str("))");
        }
        None => piece.rewrite(Group::Other, out),
    }
    out.push_str(&rest[to..length]);
    length
}

/// Brackets in brackets that are looked through, more than minijinja takes.
const DEPTH_MAX: usize = 200;

/// What a token of an expression is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Word,
    Number,
    Open,
    Close,
    Sign,
}

/// A token of an expression: where it lies in its source.
#[derive(Debug, Clone, Copy)]
struct ExpressionToken {
    kind: Kind,
    start: usize,
    end: usize,
}

/// What the brackets around an expression mean to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    /// A dictionary: what comes before a colon is looked up.
    Dictionary,
    /// A subscript, or values that are compared: all is looked at.
    LookedAt,
    /// Anything else.
    Other,
}

/// The tokens between the first two bytes of `rest` and the `close` that ends them, and the length of it all.
fn tokens(rest: &str, close: &str) -> Option<(Vec<ExpressionToken>, usize)> {
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
                // The parser refuses this later.
                if open > DEPTH_MAX {
                    return None;
                }
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
                let two = bytes.get(at..at + 2).unwrap_or_default();
                at += if matches!(two, b"==" | b"!=" | b"<=" | b">=" | b"//" | b"**") { 2 } else { 1 };
                Kind::Sign
            }
        };
        found.push(ExpressionToken { kind, start, end: at });
    }
    None
}

/// A part of an expression: its tokens, and the bytes of the source that it takes, with the space around them.
#[derive(Clone, Copy)]
struct Piece<'a> {
    source: &'a str,
    tokens: &'a [ExpressionToken],
    from: usize,
    to: usize,
}

impl<'a> Piece<'a> {
    fn text(&self, i: usize) -> &'a str {
        self.tokens.get(i).map_or("", |token| &self.source[token.start..token.end])
    }

    fn kind(&self, i: usize) -> Option<Kind> {
        self.tokens.get(i).map(|token| token.kind)
    }

    /// The tokens from `start` to before `end`, without the space around them.
    fn part(&self, start: usize, end: usize) -> Piece<'a> {
        let tokens = &self.tokens[start..end];
        let (from, to) = (tokens.first().map_or(0, |token| token.start), tokens.last().map_or(0, |token| token.end));
        Piece { tokens, from, to, ..*self }
    }

    /// Copies the piece, what is compared in it wrapped.
    fn rewrite(self, group: Group, out: &mut String) {
        self.sides(
            &|piece, at, start| piece.ends_side(at, start) && !matches!(piece.text(at), "+" | "-" | "~"),
            &|piece, start, end| {
                let compares = |i: Option<usize>| i.is_some_and(|i| piece.compares(i));
                let looked_at = match group {
                    Group::Dictionary => piece.text(end) == ":",
                    Group::LookedAt => !piece.tokens.iter().any(|token| &piece.source[token.start..token.end] == ":"),
                    Group::Other => false,
                };
                let before = start.checked_sub(1);
                let wraps = looked_at
                    || compares(before)
                    || compares(Some(end))
                    || (piece.text(end) == "not" && compares(Some(end + 1)));
                wraps.then_some(GUARD_FUNCTION)
            },
            &|side, out| side.concatenation(out),
            out,
        );
    }

    /// Copies one side of a comparison, both sides of `~` in it wrapped.
    fn concatenation(self, out: &mut String) {
        self.sides(
            &Piece::ends_side,
            &|piece, start, end| {
                let tilde = |i: Option<usize>| i.is_some_and(|i| piece.text(i) == "~");
                (tilde(Some(end)) || tilde(start.checked_sub(1))).then_some(TEXT_FUNCTION)
            },
            &|side, out| side.formats(out),
            out,
        );
    }

    /// Copies the piece side by side. `ends` says of a token whether it ends the side that began at the other, `wrap`
    /// gives the function around a side, and `copy` copies one.
    fn sides(
        self,
        ends: &dyn Fn(&Piece<'a>, usize, usize) -> bool,
        wrap: &dyn Fn(&Piece<'a>, usize, usize) -> Option<&'static str>,
        copy: &dyn Fn(Piece<'a>, &mut String),
        out: &mut String,
    ) {
        let (mut copied, mut start) = (self.from, 0);
        while start < self.tokens.len() {
            let mut end = start;
            while end < self.tokens.len() && !ends(&self, end, start) {
                end = if self.kind(end) == Some(Kind::Open) { self.closing(end) } else { end } + 1;
            }
            let end = end.min(self.tokens.len());
            if start < end {
                let side = self.part(start, end);
                out.push_str(&self.source[copied..side.from]);
                match wrap(&self, start, end).filter(|_| !side.is_literal()) {
                    Some(function) => {
                        out.push_str(function);
                        out.push('(');
                        copy(side, out);
                        out.push(')');
                    }
                    None => copy(side, out),
                }
                copied = side.to;
            }
            if let Some(token) = self.tokens.get(end) {
                out.push_str(&self.source[copied..token.end]);
                copied = token.end;
            }
            start = end + 1;
        }
        out.push_str(&self.source[copied..self.to]);
    }

    /// Whether the token at `at` ends what may stand on one side of `~`, which began at `start`.
    fn ends_side(&self, at: usize, start: usize) -> bool {
        let before = at.checked_sub(1).filter(|before| *before >= start);
        // A sign is one of a number where no operand is before it.
        let operand = before.is_some_and(|before| match self.kind(before) {
            Some(Kind::Text | Kind::Number | Kind::Close) => true,
            Some(Kind::Word) => !is_operator(self.text(before)),
            _ => false,
        });
        let before = before.map_or("", |before| self.text(before));
        match (self.kind(at), self.text(at)) {
            (Some(Kind::Sign), "+" | "-") => operand,
            (Some(Kind::Sign), sign) => matches!(sign, "~" | "," | ":" | "=") || self.compares(at),
            // Tests and filters may have the names of operators.
            (Some(Kind::Word), "not") => before != "is",
            (Some(Kind::Word), word) => {
                word != "is" && is_operator(word) && !matches!(before, "." | "|" | "is" | "not")
            }
            _ => false,
        }
    }

    /// Whether the token compares what is on its sides.
    fn compares(&self, i: usize) -> bool {
        matches!(self.text(i), "==" | "!=" | "<" | ">" | "<=" | ">=" | "in")
    }

    /// Whether it is a text, a number or a constant and nothing else.
    fn is_literal(&self) -> bool {
        let constant = |text| matches!(text, "none" | "true" | "false" | "None" | "True" | "False");
        self.tokens.len() == 1 && (matches!(self.kind(0), Some(Kind::Text | Kind::Number)) || constant(self.text(0)))
    }

    /// Copies a piece without comparisons and `~` outside of brackets, with `'text' % value` as a filter.
    fn formats(self, out: &mut String) {
        let (mut copied, mut i) = (self.from, 0);
        // Where in `out` the operand before the token begins, and whether it is nothing but literal text.
        let mut operand: Option<(usize, bool)> = None;
        while let Some(token) = self.tokens.get(i) {
            out.push_str(&self.source[copied..token.start]);
            let before = i.checked_sub(1);
            let glued = before.is_some_and(|before| matches!(self.text(before), "." | "|"));
            match token.kind {
                Kind::Sign if self.text(i) == "%" && operand.is_some() => {
                    let right = self.operand_after(i + 1);
                    let value = self.part(i + 1, right);
                    let fills = matches!(operand, Some((_, true))) || value.is_text_or_tuple();
                    if let (Some((start, _)), true, false) = (operand, fills, value.tokens.is_empty()) {
                        out.insert(start, '(');
                        out.truncate(out.trim_end_matches([' ', '\t']).len());
                        out.push_str(&format!("|{PERCENT_FILTER}("));
                        value.formats(out);
                        out.push_str("))");
                        (copied, i, operand) = (value.to, right, Some((start, false)));
                        continue;
                    }
                    operand = None;
                }
                Kind::Sign if matches!(self.text(i), "." | "|") => {}
                Kind::Sign => operand = None,
                Kind::Text if before.is_some_and(|before| self.kind(before) == Some(Kind::Text)) => {}
                Kind::Text => operand = Some((out.len(), true)),
                Kind::Word if glued => operand = operand.map(|(start, _)| (start, false)),
                Kind::Word if is_operator(self.text(i)) => operand = None,
                Kind::Word | Kind::Number => operand = Some((out.len(), false)),
                Kind::Open => {
                    let group = self.group(i, operand.is_some());
                    operand = operand.map(|(start, _)| (start, false)).or(Some((out.len(), false)));
                    let close = self.closing(i).min(self.tokens.len());
                    let to = self.tokens.get(close).map_or(self.to, |close| close.start);
                    out.push_str(self.text(i));
                    Piece { tokens: &self.tokens[i + 1..close], from: token.end, to, ..self }.rewrite(group, out);
                    (copied, i) = (to, close);
                    continue;
                }
                Kind::Close => {}
            }
            out.push_str(self.text(i));
            (copied, i) = (token.end, i + 1);
        }
        out.push_str(&self.source[copied..self.to]);
    }

    /// What the brackets that open at `i` are, after an operand or not.
    fn group(&self, i: usize, after_operand: bool) -> Group {
        match self.text(i) {
            "{" => Group::Dictionary,
            "[" if after_operand => Group::LookedAt,
            "(" if i > 0 && self.text(i - 1) == "changed" => Group::LookedAt,
            _ => Group::Other,
        }
    }

    /// The index of the token that closes the one at `open`, or that after the last.
    fn closing(&self, open: usize) -> usize {
        let mut depth = 0_usize;
        for (i, token) in self.tokens.iter().enumerate().skip(open) {
            match token.kind {
                Kind::Open => depth += 1,
                Kind::Close if depth == 1 => return i,
                Kind::Close => depth -= 1,
                _ => {}
            }
        }
        self.tokens.len()
    }

    /// The index after the operand that begins at `i`, with its signs, attributes, subscripts, calls and filters.
    fn operand_after(&self, mut i: usize) -> usize {
        while matches!(self.text(i), "-" | "+") {
            i += 1;
        }
        match self.kind(i) {
            Some(Kind::Open) => i = self.closing(i) + 1,
            Some(Kind::Text) => i += self.tokens[i..].iter().take_while(|token| token.kind == Kind::Text).count(),
            Some(Kind::Word | Kind::Number) => i += 1,
            _ => return i.min(self.tokens.len()),
        }
        loop {
            match (self.text(i), self.kind(i)) {
                ("." | "|", _) => i += 2,
                (_, Some(Kind::Open)) => i = self.closing(i) + 1,
                _ => return i.min(self.tokens.len()),
            }
        }
    }

    /// Whether an operand can only be meant for a text to be filled in: a text, or values in parentheses with commas.
    fn is_text_or_tuple(&self) -> bool {
        if self.tokens.len() == 1 {
            return self.kind(0) == Some(Kind::Text);
        }
        let mut depth = 0_i32;
        let commas = self.tokens.iter().filter(|token| {
            depth += i32::from(token.kind == Kind::Open) - i32::from(token.kind == Kind::Close);
            depth == 1 && &self.source[token.start..token.end] == ","
        });
        commas.count() > 0 && self.text(0) == "(" && self.closing(0) + 1 == self.tokens.len()
    }
}

/// Whether a word stands between operands.
fn is_operator(word: &str) -> bool {
    matches!(word, "and" | "or" | "not" | "in" | "is" | "if" | "else" | "recursive")
}

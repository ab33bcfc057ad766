//! Where a JSON object or list ends in a text that is still coming.

/// How far a text was read for the end of the JSON object or list that it begins with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JsonSpan {
    /// Bytes that were read.
    read: usize,
    /// Objects and lists that are open.
    depth: usize,
    in_text: bool,
    escaped: bool,
}

/// What is known of a text that may begin with an object or a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanEnd {
    /// Its object or list ends after so many bytes.
    At(usize),
    /// It begins with an object or a list that does not end yet, or with the white space before one.
    Open,
    /// It begins with something else, whatever comes.
    NoJson,
}

impl JsonSpan {
    /// Reads on in `text`, which begins as it did before. What it says depends on the text alone, and not on how much
    /// of it there was in the calls before.
    pub fn end(&mut self, text: &str) -> SpanEnd {
        let from = self.read;
        for (at, c) in text[from..].char_indices() {
            let end = from + at + c.len_utf8();
            match c {
                _ if self.escaped => self.escaped = false,
                '\\' if self.in_text => self.escaped = true,
                '{' | '[' if !self.in_text => self.depth += 1,
                // Nothing but white space comes before what opens first.
                _ if self.depth == 0 && !c.is_whitespace() => return SpanEnd::NoJson,
                '"' => self.in_text = !self.in_text,
                _ if self.in_text => (),
                '}' | ']' => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        return SpanEnd::At(end);
                    }
                }
                _ => (),
            }
            self.read = end;
        }
        SpanEnd::Open
    }
}

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

impl JsonSpan {
    /// Reads on in `text`, which begins as it did before: the bytes to the end of its object or list, once it is there.
    pub fn end(&mut self, text: &str) -> Option<usize> {
        for (at, byte) in text.bytes().enumerate().skip(self.read) {
            self.read = at + 1;
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_text => self.escaped = true,
                b'"' => self.in_text = !self.in_text,
                _ if self.in_text => (),
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(at + 1);
                    }
                }
                _ => (),
            }
        }
        None
    }

    /// Whether `text`, as far as it was read, begins with an object or a list, or with the white space before one.
    pub fn is_open(&self, text: &str) -> bool {
        self.depth > 0 || text.trim_start().is_empty()
    }
}

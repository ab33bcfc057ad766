//! Standard output, whose reader may go away at any time, and standard error, which must not fail the program.

use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write};

use serde::Serialize;

use super::show_bits::BitsStyle;
use crate::error::{Error, Result};
use crate::power::{Change, Rule};
use crate::session::Generated;

/// Writes a line to standard error. A standard error that is closed is no reason to stop.
pub fn note(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Writes what counts as absent, and the like, to standard error.
pub fn warn(sentences: &[String]) {
    sentences.iter().for_each(|sentence| note(format_args!("warning: {sentence}")));
}

/// Writes a line to standard output; a reader that has gone away wants no more of it, which is no failure.
pub fn print_line(line: impl Display) -> Result<()> {
    print_line_if_open(line).map(|_| ())
}

/// As [`print_line`]; whether the reader is still there.
pub fn print_line_if_open(line: impl Display) -> Result<bool> {
    let mut stdout = std::io::stdout().lock();
    open_or_closed(writeln!(stdout, "{line}").and_then(|()| stdout.flush()))
}

/// Writes a value to standard output as one line of JSON.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    print_line(json(value))
}

/// Generated tokens on their way to a reader: as text, or as a JSON object a line.
pub struct TokenOutput<W> {
    to: W,
    json: bool,
    style: Option<BitsStyle>,
    closed: bool,
    in_line: bool,
}

/// A change of plan as a line of JSON.
#[derive(Serialize)]
struct PlanLine<'a> {
    r#type: &'static str,
    token: usize,
    bits: f32,
    was: f32,
    rule: Rule,
    reason: &'a str,
}

/// A token's line of JSON.
#[derive(Serialize)]
struct TokenLine<'a> {
    r#type: &'static str,
    id: u32,
    text: &'a str,
    bits: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    resident_bytes: Option<u64>,
    device_bytes: u64,
}

impl<W: Write> TokenOutput<W> {
    /// An output to `to`, whose text shows the bits of each token in a style, if there is one.
    pub fn new(to: W, json: bool, style: Option<BitsStyle>) -> TokenOutput<W> {
        TokenOutput { to, json, style, closed: false, in_line: false }
    }

    /// Writes a token and flushes it.
    pub fn token(&mut self, token: &Generated<'_>) -> Result<()> {
        if self.json {
            let Generated { id, text, bits, device_bytes, .. } = *token;
            let resident_bytes = token.slices.map(|slices| slices.resident_bytes);
            self.write(&json(&TokenLine { r#type: "token", id, text, bits, resident_bytes, device_bytes }))?;
            self.write("\n")?;
        } else if !token.text.is_empty() {
            match self.style {
                Some(style) => self.write(&style.paint(token.text, token.bits))?,
                None => self.write(token.text)?,
            }
            self.in_line = !token.text.ends_with('\n');
        }
        Ok(())
    }

    /// Writes the text that was held back when the answer ended. In JSON it is in the summary.
    pub fn rest(&mut self, text: &str) -> Result<()> {
        if self.json || text.is_empty() {
            return Ok(());
        }
        self.in_line = true;
        self.write(text)
    }

    /// Tells that the bits change with the token `token`: on standard error, and in JSON also in its place.
    pub fn change(&mut self, token: usize, change: &Change) -> Result<()> {
        let Change { was, decision } = change;
        // On a terminal that shows both, the line of text that was begun must not run into it.
        let both = self.in_line && std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
        let (before, reason) = (if both { "\n" } else { "" }, &decision.reason);
        note(format_args!("{before}power: {reason} -> {:?} bits (was {was:?})", decision.bits));
        if self.json {
            let (bits, rule) = (decision.bits, decision.rule);
            self.write(&(json(&PlanLine { r#type: "plan", token, bits, was: *was, rule, reason }) + "\n"))?;
        }
        Ok(())
    }

    /// Ends the last line of text; in JSON, writes `summary`.
    pub fn finish(&mut self, summary: &impl Serialize) -> Result<()> {
        if self.json { self.write(&(json(summary) + "\n")) } else { self.end_line() }
    }

    /// Ends a line of text that was begun.
    pub fn end_line(&mut self) -> Result<()> {
        if std::mem::take(&mut self.in_line) { self.write("\n") } else { Ok(()) }
    }

    /// Whether the reader has gone away.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    fn write(&mut self, text: &str) -> Result<()> {
        if !self.closed {
            let written = self.to.write_all(text.as_bytes()).and_then(|()| self.to.flush());
            self.closed = !open_or_closed(written)?;
        }
        Ok(())
    }
}

/// Whether the reader is still there; any other failure is one.
fn open_or_closed(written: std::io::Result<()>) -> Result<bool> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::io("write", "standard output")(error)),
    }
}

/// A value as one line of JSON.
pub fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("reports have string keys and no failing parts")
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// A reader that takes some bytes and then is gone, or fails.
    struct Pipe {
        left: usize,
        then: ErrorKind,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.left);
            self.left -= taken;
            if taken == 0 { Err(self.then.into()) } else { Ok(taken) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn token(text: &str) -> Generated<'_> {
        Generated { id: 7, text, bits: 4.0, device_bytes: 9, slices: None, faults: &[] }
    }

    #[test]
    fn text_is_written_as_it_is_and_its_last_line_ended_once() {
        for (tokens, expected) in [(&["Par", "", "is\n", "é"][..], "Paris\né\n"), (&["a\n"], "a\n"), (&[], "")] {
            let mut bytes = Vec::new();
            let mut output = TokenOutput::new(&mut bytes, false, None);
            for text in tokens {
                output.token(&token(text)).unwrap();
            }
            assert!(!output.is_closed());
            output.finish(&"summary").unwrap();
            assert_eq!(String::from_utf8(bytes).unwrap(), expected);
        }
    }

    #[test]
    fn json_has_an_object_a_line() {
        let mut bytes = Vec::new();
        let mut output = TokenOutput::new(&mut bytes, true, None);
        output.token(&token("\"\n")).unwrap();
        output.finish(&serde_json::json!({"type": "summary"})).unwrap();
        let token = r#"{"type":"token","id":7,"text":"\"\n","bits":4.0,"device_bytes":9}"#;
        let expected = format!("{token}\n{}\n", r#"{"type":"summary"}"#);
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn a_reader_that_goes_away_ends_the_output_and_a_failure_is_told() {
        let mut output = TokenOutput::new(Pipe { left: 2, then: ErrorKind::BrokenPipe }, false, None);
        output.token(&token("ab")).unwrap();
        assert!(!output.is_closed());
        output.token(&token("cd")).unwrap();
        assert!(output.is_closed());
        output.finish(&"summary").unwrap();
        let mut full = TokenOutput::new(Pipe { left: 0, then: ErrorKind::StorageFull }, false, None);
        assert!(matches!(full.token(&token("ab")), Err(Error::Io { action: "write", .. })));
    }
}

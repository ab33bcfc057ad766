//! Standard output, whose reader may go away at any time, and standard error, which must not fail the program.

use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, StdoutLock, Write};

use serde::Serialize;

use super::show_bits::BitsStyle;
use super::terminal;
use edge_run::internals::error::{Error, Result};
use edge_run::internals::power::{Change, Rule};
use edge_run::internals::session::{Token, TokenProbability};

/// Writes a line to standard error, the control characters in it shown: it may name what a file says. A standard error
/// that is closed is no reason to stop.
pub fn note(line: impl Display) {
    note_styled(terminal::in_a_line(line));
}

/// Writes a line of the program's own to standard error, with the colours that are in it.
pub fn note_styled(line: impl Display) {
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
    print_json_line(&json(value)).map(|_| ())
}

/// Writes a line of JSON to standard output; whether the reader is still there.
pub fn print_json_line(json: &str) -> Result<bool> {
    if std::io::stdout().is_terminal() { print_line_if_open(terminal::in_json(json)) } else { print_line_if_open(json) }
}

/// Generated tokens on their way to a reader: as text, or as a JSON object a line.
pub struct TokenOutput<W> {
    to: W,
    /// Whether `to` is a terminal, which must not obey what a model writes.
    terminal: bool,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    logprob: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<&'a [TokenProbability]>,
}

impl TokenOutput<StdoutLock<'static>> {
    /// The output to standard output, whose text shows the bits of each token in a style, if there is one. A terminal
    /// is shown the control characters of the text; any other reader gets them as they are.
    pub fn stdout(json: bool, style: Option<BitsStyle>) -> TokenOutput<StdoutLock<'static>> {
        let to = std::io::stdout().lock();
        TokenOutput { terminal: to.is_terminal(), ..TokenOutput::new(to, json, style) }
    }
}

impl<W: Write> TokenOutput<W> {
    /// As [`TokenOutput::stdout`], to a reader that is no terminal.
    pub fn new(to: W, json: bool, style: Option<BitsStyle>) -> TokenOutput<W> {
        TokenOutput { to, terminal: false, json, style, closed: false, in_line: false }
    }

    /// Writes a token and flushes it.
    pub fn token(&mut self, token: &Token) -> Result<()> {
        self.token_in(token, false)
    }

    /// As [`TokenOutput::token`], with text that is `dimmed` on a terminal that can.
    pub fn token_in(&mut self, token: &Token, dimmed: bool) -> Result<()> {
        if self.json {
            let Token { id, text, bits, device_bytes, .. } = token;
            let resident_bytes = token.slices.map(|slices| slices.resident_bytes);
            let (id, bits, device_bytes) = (*id, *bits, *device_bytes);
            let (logprob, top) = (token.logprob(), token.logprobs.as_ref().map(|logprobs| logprobs.top.as_slice()));
            let line =
                TokenLine { r#type: "token", id, text, bits, resident_bytes, device_bytes, logprob, top_logprobs: top };
            self.write_json(&line)?;
            return Ok(());
        }
        let shown = if self.terminal { terminal::in_lines(&token.text) } else { token.text.clone() };
        if !shown.is_empty() {
            // Nothing was read for a token that was forced.
            let style = self.style.filter(|_| token.bits > 0.0);
            let painted = style.map_or_else(|| shown.clone(), |style| style.paint(&shown, token.bits));
            self.write(&if dimmed { dim(&painted) } else { painted })?;
            self.in_line = !shown.ends_with('\n');
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
        // Where only the depth changes that routers may read to, the average stays.
        if decision.bits == *was {
            return Ok(());
        }
        // On a terminal that shows both, the line of text that was begun must not run into it.
        let both = self.in_line && self.terminal && std::io::stderr().is_terminal();
        if both {
            note("");
        }
        let reason = &decision.reason;
        note(format_args!("power: {reason} -> {:?} bits (was {was:?})", decision.bits));
        if self.json {
            let (bits, rule) = (decision.bits, decision.rule);
            self.write_json(&PlanLine { r#type: "plan", token, bits, was: *was, rule, reason })?;
        }
        Ok(())
    }

    /// Ends the last line of text; in JSON, writes `summary`.
    pub fn finish(&mut self, summary: &impl Serialize) -> Result<()> {
        if self.json { self.write_json(summary) } else { self.end_line() }
    }

    /// Ends a line of text that was begun.
    pub fn end_line(&mut self) -> Result<()> {
        if std::mem::take(&mut self.in_line) { self.write("\n") } else { Ok(()) }
    }

    /// Whether the reader has gone away.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    fn write_json(&mut self, value: &impl Serialize) -> Result<()> {
        let line = json(value);
        let line = if self.terminal { terminal::in_json(&line) } else { line };
        self.write(&(line + "\n"))
    }

    fn write(&mut self, text: &str) -> Result<()> {
        if !self.closed {
            let written = self.to.write_all(text.as_bytes()).and_then(|()| self.to.flush());
            self.closed = !open_or_closed(written)?;
        }
        Ok(())
    }
}

/// Text that a terminal shows dimmed.
pub fn dim(text: &str) -> String {
    format!("\x1b[2m{text}\x1b[0m")
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

    fn token(text: &str) -> Token {
        let mut token = Token::default();
        (token.id, token.text, token.bits, token.device_bytes) = (7, text.into(), 4.0, 9);
        token
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

    /// What a reader gets of tokens, a terminal or another.
    fn written(terminal: bool, json: bool, style: Option<BitsStyle>, tokens: &[&str]) -> String {
        let mut bytes = Vec::new();
        let mut output = TokenOutput { terminal, ..TokenOutput::new(&mut bytes, json, style) };
        for text in tokens {
            output.token(&token(text)).unwrap();
        }
        output.end_line().unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_terminal_does_not_obey_an_answer_and_a_pipe_gets_all_of_it() {
        // Whole, in pieces, and as the single characters of C1.
        let tokens = ["\x1b]0;owned\x07", "a\x1b", "[31m", "\u{9b}", "2J\r", "\n\tb\x08\u{202e}c"];
        let shown = "\\x1b]0;owned\\x07a\\x1b[31m\\u{9b}2J\n\tb\\x08\\u{202e}c\n";
        assert_eq!(written(true, false, None, &tokens), shown);
        assert_eq!(written(false, false, None, &tokens), tokens.concat() + "\n");

        // The program's own colours stay, with nothing of the model's between them.
        let painted = written(true, false, Some(BitsStyle::Palette), &tokens);
        assert!(painted.starts_with("\x1b[38;5;") && painted.contains("m\\x1b]0;owned\\x07\x1b[0m"), "{painted:?}");
        assert_eq!(painted.matches('\x1b').count(), 2 * tokens.len());

        let [json, piped] = [true, false].map(|terminal| written(terminal, true, None, &tokens));
        assert!(!json.contains(|c: char| c.is_control() && c != '\n') && json != piped, "{json:?}");
        let texts = |json: &str| {
            let value =
                |line| serde_json::from_str::<serde_json::Value>(line).unwrap()["text"].as_str().unwrap().into();
            json.lines().map(value).collect::<Vec<String>>()
        };
        assert_eq!(
            (texts(&json), texts(&piped)),
            (tokens.map(String::from).to_vec(), tokens.map(String::from).to_vec())
        );
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

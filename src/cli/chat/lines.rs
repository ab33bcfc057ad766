//! Where a conversation's lines come from: a terminal, on which they are edited, or a file or pipe.

use std::io::{BufRead, ErrorKind, IsTerminal, Read};
use std::path::{Path, PathBuf};

use rustyline::DefaultEditor;
use rustyline::config::{Behavior, Builder};
use rustyline::error::ReadlineError;

use super::input::{LineJoiner, TypedText};
use crate::cli::output::note;
use crate::cli::settings::REQUEST_MIB_MAX;
use crate::cli::stop;
use edge_run::internals::error::{Error, Result};

/// Lines that the history keeps.
const HISTORY_LINES: usize = 1000;

/// What comes next.
#[derive(Debug)]
pub enum NextInput {
    /// Something was typed.
    Typed(TypedText),
    /// The line was given up.
    Interrupted,
    /// Nothing more comes.
    End,
}

/// Where lines come from.
pub enum Lines {
    /// A terminal.
    Edited {
        /// The editor.
        editor: Box<DefaultEditor>,
        /// The file of what was typed before, unless none is kept.
        history: Option<PathBuf>,
    },
    /// A file or a pipe.
    Read {
        /// Whether a line was read.
        begun: bool,
    },
}

impl Lines {
    /// Lines of standard input; where it is a terminal, with the history in a file.
    pub fn open(history: Option<PathBuf>) -> Result<Lines> {
        if !std::io::stdin().is_terminal() {
            return Ok(Lines::Read { begun: false });
        }
        // An answer that goes to a file is not to have the prompts between.
        let behavior = if std::io::stdout().is_terminal() { Behavior::Stdio } else { Behavior::PreferTerm };
        let config = Builder::new().behavior(behavior).max_history_size(HISTORY_LINES).map(Builder::build);
        let mut editor = Box::new(config.and_then(DefaultEditor::with_config).map_err(failed)?);
        if let Some(file) = history.as_deref().filter(|file| file.exists())
            && let Err(fault) = editor.load_history(file)
        {
            note(format_args!("warning: the history in `{}` cannot be read: {fault}", file.display()));
        }
        Ok(Lines::Edited { editor, history })
    }

    /// Whether somebody types them.
    pub fn are_typed(&self) -> bool {
        matches!(self, Lines::Edited { .. })
    }

    /// The next message or command, however many lines it has. Fails where the lines cannot be read.
    pub fn next(&mut self) -> Result<NextInput> {
        let mut joiner = LineJoiner::default();
        loop {
            let line = {
                let _waiting = stop::waiting();
                match self.line(joiner.is_open())? {
                    Ok(line) => line,
                    Err(NextInput::End) => return Ok(joiner.finish().map_or(NextInput::End, NextInput::Typed)),
                    Err(other) => return Ok(other),
                }
            };
            if let Some(typed) = joiner.push(&line) {
                self.remember(&typed);
                return Ok(NextInput::Typed(typed));
            }
        }
    }

    /// A line without its line break, or why there is none.
    fn line(&mut self, goes_on: bool) -> Result<std::result::Result<String, NextInput>> {
        match self {
            Lines::Edited { editor, .. } => match editor.readline(if goes_on { "| " } else { "> " }) {
                Ok(line) => Ok(Ok(line)),
                Err(ReadlineError::Interrupted) => Ok(Err(NextInput::Interrupted)),
                Err(ReadlineError::Eof) => Ok(Err(NextInput::End)),
                Err(ReadlineError::Io(fault)) if fault.kind() == ErrorKind::InvalidData => {
                    note("what was typed is no text in UTF-8, and is left out");
                    Ok(Ok(String::new()))
                }
                Err(fault) => Err(failed(fault)),
            },
            Lines::Read { begun } => {
                let mut bytes = Vec::new();
                let read = std::io::stdin().lock().take(REQUEST_MIB_MAX << 20).read_until(b'\n', &mut bytes);
                if read.map_err(Error::io("read", "standard input"))? == 0 {
                    return Ok(Err(NextInput::End));
                }
                if bytes.len() as u64 == REQUEST_MIB_MAX << 20 && !bytes.ends_with(b"\n") {
                    let expected = format!("lines of at most {REQUEST_MIB_MAX} MiB");
                    return Err(Error::argument("standard input", expected, "a longer one"));
                }
                let text = String::from_utf8(bytes);
                let text = text.map_err(|fault| Error::argument("standard input", "text in UTF-8", fault))?;
                let text = if std::mem::replace(begun, true) { &text } else { text.trim_start_matches('\u{feff}') };
                let text = text.strip_suffix('\n').unwrap_or(text);
                Ok(Ok(text.strip_suffix('\r').unwrap_or(text).to_string()))
            }
        }
    }

    /// Keeps what was typed for the history; once it cannot be kept, no more.
    fn remember(&mut self, typed: &TypedText) {
        let Lines::Edited { editor, history } = self else { return };
        if typed.text.trim().is_empty() {
            return;
        }
        // In memory this does not fail.
        let _ = editor.add_history_entry(&typed.text);
        let Some(file) = history.as_deref() else { return };
        if let Err(fault) = append(editor, file) {
            note(format_args!("warning: the history in `{}` is not kept: {fault}", file.display()));
            *history = None;
        }
    }
}

/// Adds what is new to the history's file, which its user alone can read.
fn append(editor: &mut DefaultEditor, file: &Path) -> std::result::Result<(), ReadlineError> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    editor.append_history(file)
}

fn failed(fault: ReadlineError) -> Error {
    let fault = match fault {
        ReadlineError::Io(fault) => fault,
        other => std::io::Error::other(other),
    };
    Error::io("read", "standard input")(fault)
}

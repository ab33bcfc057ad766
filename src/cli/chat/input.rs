//! What is typed in a conversation: lines that belong together, and commands among what is said.

use std::path::PathBuf;

use edge_run::internals::power::PowerMode;
use edge_run::internals::precision::BITS;

/// What begins and ends a block of lines.
const BLOCK: &str = "\"\"\"";

/// The commands, as the help shows them.
pub const HELP: &str = "\
/bits N          read N bits of each weight from here on, 2 to 8; `auto` follows the power state
/power MODE      low, balanced or high; `auto` follows the power state
/system TEXT     set the assistant up from here on; without text, no more
/retry           answer the last question again
/clear           forget what was said
/save FILE       save the conversation; `/save --keys FILE` with keys and values, so that nothing is computed again
/load FILE       go on with a saved conversation
/stats           tell about the last answer, the context, and weights that left or came back (--keep-alive)
/help            show this
/exit            end, as Ctrl-D does
A line that ends in \\ goes on in the next one, and lines between \"\"\" and \"\"\" are one message. A message that
begins with / is typed after a space. Ctrl-C stops an answer, and clears a line.";

/// What is to be done about what was typed.
#[derive(Debug, Clone, PartialEq)]
pub enum ChatInput {
    /// The model is told this.
    Say(String),
    /// So many bits are read of each weight, or what the power state allows.
    Bits(Option<f32>),
    /// The bits are those of this mode.
    Power(PowerMode),
    /// The assistant is set up by this, or by nothing.
    System(Option<String>),
    /// The last question is answered again.
    Retry,
    /// What was said is forgotten.
    Clear,
    /// The conversation is saved, on request with keys and values.
    Save {
        /// The file.
        file: PathBuf,
        /// Whether keys and values are in it.
        keys: bool,
    },
    /// A saved conversation goes on.
    Load(PathBuf),
    /// The last answer is told about.
    Stats,
    /// The commands are listed.
    Help,
    /// The program ends.
    Exit,
}

/// A message or a command as it was typed, of one line or more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypedText {
    /// The text, without what joins its lines.
    pub text: String,
    /// Whether it is a block, which is no command.
    pub is_block: bool,
}

/// Lines that belong together, as they come.
#[derive(Debug, Default)]
pub struct LineJoiner {
    lines: Vec<String>,
    in_block: bool,
}

impl LineJoiner {
    /// Whether a line has come that is not all.
    pub fn is_open(&self) -> bool {
        self.in_block || !self.lines.is_empty()
    }

    /// Takes a line, without its line break; what it completes.
    pub fn push(&mut self, line: &str) -> Option<TypedText> {
        let opened = !self.is_open();
        let line = match line.trim_start().strip_prefix(BLOCK) {
            Some(rest) if opened => {
                self.in_block = true;
                rest
            }
            _ => line,
        };
        let (part, more) = match self.in_block {
            true => line.trim_end().strip_suffix(BLOCK).map_or((line, true), |last| (last, false)),
            false => line.strip_suffix('\\').map_or((line, false), |part| (part, true)),
        };
        self.lines.push(part.to_string());
        if more { None } else { self.finish() }
    }

    /// What has come, where no line follows.
    pub fn finish(&mut self) -> Option<TypedText> {
        let (lines, is_block) = (std::mem::take(&mut self.lines), std::mem::take(&mut self.in_block));
        if lines.is_empty() {
            return None;
        }
        let text = lines.join("\n");
        // The line breaks beside the marks of a block belong to these.
        let text = if is_block { text.trim_matches('\n').to_string() } else { text };
        Some(TypedText { text, is_block })
    }
}

/// What is to be done; none about nothing. Fails with a sentence where it is no command and is written like one.
pub fn parse(typed: &TypedText) -> Result<Option<ChatInput>, String> {
    let TypedText { text, is_block } = typed;
    if text.trim().is_empty() {
        return Ok(None);
    }
    let Some(command) = text.strip_prefix('/').filter(|_| !is_block) else {
        let said = if *is_block { text.as_str() } else { text.trim() };
        return Ok(Some(ChatInput::Say(said.to_string())));
    };
    let (name, argument) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    let argument = argument.trim();
    let input = match name {
        "bits" => bits(argument)?,
        "power" => power(argument)?,
        "system" => ChatInput::System(Some(argument).filter(|text| !text.is_empty()).map(String::from)),
        "save" => save(argument)?,
        "load" => ChatInput::Load(file("/load", argument)?),
        "retry" | "clear" | "stats" | "help" | "exit" | "quit" | "bye" if !argument.is_empty() => {
            return Err(format!("/{name} takes nothing more, got `{argument}`"));
        }
        "retry" => ChatInput::Retry,
        "clear" => ChatInput::Clear,
        "stats" => ChatInput::Stats,
        "help" => ChatInput::Help,
        "exit" | "quit" | "bye" => ChatInput::Exit,
        _ => {
            return Err(format!(
                "there is no command /{name}: /help lists them, and a space before / says it as it is"
            ));
        }
    };
    Ok(Some(input))
}

fn bits(argument: &str) -> Result<ChatInput, String> {
    if argument == "auto" {
        return Ok(ChatInput::Bits(None));
    }
    let bits = argument.parse().ok().filter(|bits| BITS.contains(bits));
    let expected = || format!("/bits: expected a number from 2 to 8, or auto, got `{argument}`");
    bits.map(|bits| ChatInput::Bits(Some(bits))).ok_or_else(expected)
}

fn power(argument: &str) -> Result<ChatInput, String> {
    let mode = PowerMode::ALL.into_iter().find(|mode| mode.name() == argument);
    let names = || PowerMode::ALL.map(PowerMode::name).join(", ");
    let expected = || format!("/power: expected one of {}, got `{argument}`", names());
    mode.map(ChatInput::Power).ok_or_else(expected)
}

fn save(argument: &str) -> Result<ChatInput, String> {
    let (keys, argument) = match argument.strip_prefix("--keys") {
        Some(rest) if rest.is_empty() || rest.starts_with(char::is_whitespace) => (true, rest.trim()),
        _ => (false, argument),
    };
    Ok(ChatInput::Save { file: file("/save", argument)?, keys })
}

fn file(command: &str, argument: &str) -> Result<PathBuf, String> {
    if argument.is_empty() { Err(format!("{command}: expected a file")) } else { Ok(PathBuf::from(argument)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Option<ChatInput>, String> {
        parse(&TypedText { text: line.into(), is_block: false })
    }

    fn say(text: &str) -> Result<Option<ChatInput>, String> {
        Ok(Some(ChatInput::Say(text.into())))
    }

    #[test]
    fn commands_and_what_is_said_are_told_apart() {
        use ChatInput::*;
        let save = |file: &str, keys| Save { file: file.into(), keys };
        for (line, input) in [
            ("/bits 3.5", Bits(Some(3.5))),
            ("/bits  8 ", Bits(Some(8.0))),
            ("/bits auto", Bits(None)),
            ("/power low", Power(PowerMode::Low)),
            ("/power auto", Power(PowerMode::Auto)),
            ("/system You are terse.\nVery.", System(Some("You are terse.\nVery.".into()))),
            ("/system", System(None)),
            ("/save a b", save("a b", false)),
            ("/save --keys a", save("a", true)),
            ("/save --keysa", save("--keysa", false)),
            ("/load a", Load("a".into())),
            ("/retry", Retry),
            ("/clear ", Clear),
            ("/stats", Stats),
            ("/help", Help),
            ("/exit", Exit),
        ] {
            assert_eq!(parsed(line), Ok(Some(input)), "{line}");
        }
        assert_eq!(parsed("Hi there "), say("Hi there"));
        assert_eq!(parsed(" /usr is a folder"), say("/usr is a folder"));
        assert_eq!([parsed(""), parsed("  \n")], [Ok(None), Ok(None)]);
        assert_eq!(parse(&TypedText { text: "/clear\n".into(), is_block: true }), say("/clear\n"));
    }

    #[test]
    fn what_is_no_command_is_told() {
        for (line, words) in [
            ("/bit 3", "no command /bit:"),
            ("/", "no command /:"),
            ("/bits", "got ``"),
            ("/bits 9", "from 2 to 8"),
            ("/bits nan", "from 2 to 8"),
            ("/power lots", "one of auto, low, balanced, high, got `lots`"),
            ("/power follow", "one of auto, low, balanced, high, got `follow`"),
            ("/save", "/save: expected a file"),
            ("/save --keys", "/save: expected a file"),
            ("/load ", "/load: expected a file"),
            ("/retry now", "/retry takes nothing more"),
        ] {
            let fault = parsed(line).unwrap_err();
            assert!(fault.contains(words), "{line}: {fault}");
        }
        let commands = HELP.lines().filter(|line| line.starts_with('/')).map(|line| line.split(' ').next().unwrap());
        for command in commands {
            assert!(parsed(command).err().is_none_or(|fault| !fault.contains("no command")), "{command}");
        }
    }

    /// All that lines come to.
    fn joined(lines: &[&str]) -> Vec<(String, bool)> {
        let mut joiner = LineJoiner::default();
        let mut all: Vec<TypedText> = lines.iter().filter_map(|line| joiner.push(line)).collect();
        all.extend(joiner.finish());
        assert!(!joiner.is_open());
        all.into_iter().map(|typed| (typed.text, typed.is_block)).collect()
    }

    #[test]
    fn lines_that_belong_together_are_joined() {
        let line = |text: &str| (text.to_string(), false);
        let block = |text: &str| (text.to_string(), true);
        assert_eq!(joined(&["a", "", "b"]), [line("a"), line(""), line("b")]);
        assert_eq!(joined(&["a\\", " b\\", "c", "d"]), [line("a\n b\nc"), line("d")]);
        assert_eq!(joined(&["\"\"\"", "a", "", "  b\\", "\"\"\"", "c"]), [block("a\n\n  b\\"), line("c")]);
        assert_eq!(joined(&["\"\"\"a\"\"\"", "\"\"\"/b", "c\"\"\" "]), [block("a"), block("/b\nc")]);
        assert_eq!(joined(&["a \"\"\"", "b"]), [line("a \"\"\""), line("b")], "a mark in the middle is none");
        assert_eq!(joined(&["\"\"\"", "a"]), [block("a")], "the end of the input ends a block");
        assert_eq!(joined(&["a\\"]), [line("a")]);
    }

    #[test]
    fn a_line_that_is_not_all_is_open() {
        let mut joiner = LineJoiner::default();
        assert!(joiner.push("a\\").is_none() && joiner.is_open());
        assert!(joiner.push("b").is_some() && !joiner.is_open());
    }
}

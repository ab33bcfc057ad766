//! Text on its way to a terminal, with its control characters shown in place of obeyed.
//!
//! A model, a file's name or its metadata may hold sequences that rename the window, hide a line or write to the
//! clipboard. Each control character is replaced by itself, so a sequence that comes in pieces is none either.

use std::fmt::{Display, Write as _};

/// A name, a path or a message in one line: line breaks and tabs are shown too, so that no name can look like a line
/// of the program's own.
pub fn in_a_line(text: impl Display) -> String {
    escape(&text.to_string(), |character| match character {
        '\n' => Some("\\n"),
        '\r' => Some("\\r"),
        '\t' => Some("\\t"),
        _ => None,
    })
}

/// A piece of an answer, whose line breaks and tabs stay. A carriage return, which would let what follows overwrite its
/// line, is dropped: most often it belongs to a line break.
pub fn in_lines(text: &str) -> String {
    escape(text, |character| match character {
        '\n' => Some("\n"),
        '\r' => Some(""),
        '\t' => Some("\t"),
        _ => None,
    })
}

/// A line of JSON, whose own escapes stand for the control characters that serde_json leaves as they are.
pub fn in_json(json: &str) -> String {
    let mut line = String::with_capacity(json.len());
    for character in json.chars() {
        match is_control(character) {
            true => write!(line, "\\u{:04x}", u32::from(character)).expect("strings have room"),
            false => line.push(character),
        }
    }
    line
}

fn escape(text: &str, own: impl Fn(char) -> Option<&'static str>) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        match own(character) {
            Some(text) => line.push_str(text),
            None if u32::from(character) < 0x80 && is_control(character) => {
                write!(line, "\\x{:02x}", u32::from(character)).expect("strings have room");
            }
            None if is_control(character) => line.extend(character.escape_unicode()),
            None => line.push(character),
        }
    }
    line
}

/// Whether a terminal may obey the character in place of showing it: C0, DEL, C1, and what turns the direction of the
/// text around it.
pub fn is_control(character: char) -> bool {
    character.is_control() || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_control_character_is_shown() {
        let controls = (0..0x20u8).map(char::from).chain('\x7f'..='\u{9f}');
        for control in controls.chain('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}') {
            let text = format!("a{control}b");
            for shown in [in_a_line(&text), in_lines(&text)] {
                let kept = |c: char| is_control(c) && !matches!(c, '\n' | '\t');
                assert!(!shown.contains(kept) && shown.starts_with('a') && shown.ends_with('b'), "{shown:?}");
            }
            assert!(in_a_line(&text).contains('\\'), "{text:?}");
        }
    }

    #[test]
    fn what_a_terminal_shows_by_itself_stays() {
        let text = "Grüße, 世界 👩‍🚀 שלום \u{200f}\u{a0}\\x1b";
        assert_eq!(in_a_line(text), text);
        assert_eq!(in_lines(&format!("{text}\n\t{text}")), format!("{text}\n\t{text}"));
    }

    #[test]
    fn lines_of_an_answer_stay_and_those_of_a_name_do_not() {
        assert_eq!(in_lines("a\r\nb\tc\x1b[31m\u{9b}2J\u{202e}"), "a\nb\tc\\x1b[31m\\u{9b}2J\\u{202e}");
        assert_eq!(in_a_line("a\r\nb\tc\x1b]0;x\x07"), "a\\r\\nb\\tc\\x1b]0;x\\x07");
    }

    #[test]
    fn a_line_of_json_keeps_its_value() {
        let value = serde_json::json!({"text": "\u{9b}31m\x7f\u{202e}é\n\x1b"});
        let line = in_json(&value.to_string());
        assert!(!line.contains(is_control), "{line:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap(), value);
    }
}

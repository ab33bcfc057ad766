//! Which parts of an answer are a reasoning model's thoughts, as the answer comes.

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// Where in an answer's thoughts its text is. Thoughts come first in an answer, or nowhere.
#[derive(Debug)]
pub enum Thinking {
    /// Nothing but blanks and the beginning of a mark has come.
    Begin(String),
    /// Thoughts come; the last of them.
    Inside(String),
    /// The answer proper comes.
    Over,
}

impl Thinking {
    /// That of an answer to `prompt`, which may have begun the thoughts itself.
    pub fn after(prompt: &str) -> Thinking {
        if prompt.trim_end().ends_with(OPEN) { Thinking::Inside(String::new()) } else { Thinking::Begin(String::new()) }
    }

    /// Takes the next piece of text; whether it belongs to thoughts. A piece with the end of a mark does.
    pub fn push(&mut self, text: &str) -> bool {
        match self {
            Thinking::Over => false,
            Thinking::Begin(seen) => {
                seen.push_str(text);
                let begun = seen.trim_start();
                if let Some(thoughts) = begun.strip_prefix(OPEN) {
                    let thoughts = thoughts.to_string();
                    *self = Thinking::Inside(String::new());
                    self.push(&thoughts);
                    return true;
                }
                if !OPEN.starts_with(begun) {
                    *self = Thinking::Over;
                }
                false
            }
            Thinking::Inside(tail) => {
                tail.push_str(text);
                if tail.contains(CLOSE) {
                    *self = Thinking::Over;
                } else {
                    // What may be the beginning of a mark.
                    let keep = tail.char_indices().rev().nth(CLOSE.len()).map_or(0, |(at, _)| at);
                    tail.drain(..keep);
                }
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pieces that are thoughts.
    fn thoughts<'a>(prompt: &str, pieces: &[&'a str]) -> Vec<&'a str> {
        let mut thinking = Thinking::after(prompt);
        pieces.iter().copied().filter(|piece| thinking.push(piece)).collect()
    }

    #[test]
    fn thoughts_are_what_stands_between_the_marks_at_the_beginning() {
        assert_eq!(thoughts("", &["<think>", "Hm", "…", "</think>", "\n", "Yes"]), ["<think>", "Hm", "…", "</think>"]);
        assert_eq!(thoughts("", &["\n<", "think", ">", "é</th", "ink>", "Yes"]), [">", "é</th", "ink>"]);
        assert_eq!(thoughts("", &["<think></think>", "Yes"]), ["<think></think>"]);
        assert_eq!(thoughts("assistant\n<think>\n", &["Hm", "</think>Yes", "no"]), ["Hm", "</think>Yes"]);
        let long = "ä".repeat(100);
        assert_eq!(thoughts("<think>", &[&long, "</think>", "a"]).len(), 2);
    }

    #[test]
    fn an_answer_about_the_marks_has_no_thoughts() {
        assert_eq!(thoughts("", &["Say", " <think>", "a", "</think>"]), [""; 0]);
        assert_eq!(thoughts("<think> is a mark", &["<", "b", ">", "<think>"]), [""; 0]);
    }
}

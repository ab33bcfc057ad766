//! What stands before the arguments of a call that begins with the tool's name.

/// The mark before the arguments.
pub const ARGUMENTS: &str = "[ARGS]";
/// The mark before an id of the call.
pub const ID: &str = "[CALL_ID]";
/// Characters of an id at most; Mistral's have nine.
const ID_CHARACTERS_MAX: usize = 64;
/// Characters of a name at most.
const NAME_CHARACTERS_MAX: usize = 64;

/// What is known of a text that may begin with `NAME{`, `NAME[ARGS]{` or `NAME[CALL_ID]ID[ARGS]{`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heading<'a> {
    /// It does: the tool's name, and the bytes before the brace.
    Whole { name: &'a str, bytes: usize },
    /// It may, by what comes.
    Open,
    /// It does not, whatever comes.
    Other,
}

impl Heading<'_> {
    /// What `text` begins with.
    pub fn of(text: &str) -> Heading<'_> {
        let is_of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let text_after = text.trim_start();
        let after_name = text_after.trim_start_matches(is_of_name);
        let name = &text_after[..text_after.len() - after_name.len()];
        if name.len() > NAME_CHARACTERS_MAX || (name.is_empty() && !after_name.is_empty()) {
            return Heading::Other;
        }
        let mut rest = after_name;
        if let Some(id) = rest.strip_prefix(ID) {
            rest = id.trim_start_matches(|c: char| c.is_ascii_alphanumeric());
            if id.len() - rest.len() > ID_CHARACTERS_MAX {
                return Heading::Other;
            }
        }
        // Without the mark, white space before a brace is that of a sentence.
        rest = rest.strip_prefix(ARGUMENTS).map_or(rest, str::trim_start);
        if rest.starts_with('{') {
            return Heading::Whole { name, bytes: text.len() - rest.len() };
        }
        let may_go_on = ARGUMENTS.starts_with(rest) || ID.starts_with(rest);
        if may_go_on { Heading::Open } else { Heading::Other }
    }
}

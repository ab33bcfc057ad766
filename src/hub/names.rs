//! Names that come from people and from servers, checked before anything is done with them.

use std::fmt;
use std::path::{Component, Path};
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};

use crate::error::Error;

/// Characters of an owner's or a model's name at most.
const NAME_CHARACTERS_MAX: usize = 96;

/// What is escaped in a part of an address: all but what RFC 3986 leaves unreserved.
const IN_PART: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// What is escaped in a path of an address.
const IN_PATH: &AsciiSet = &IN_PART.remove(b'/');

/// A model's repository on the hub, OWNER/MODEL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoName {
    owner: String,
    model: String,
}

impl RepoName {
    /// Who the repository belongs to.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// The name after the owner's.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// The repository's folder in the hub's cache.
    pub(super) fn folder(&self) -> String {
        format!("models--{}--{}", self.owner, self.model)
    }
}

impl fmt::Display for RepoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.model)
    }
}

impl FromStr for RepoName {
    type Err = Error;

    fn from_str(text: &str) -> Result<RepoName, Error> {
        let found = text.split_once('/').filter(|(owner, model)| is_name(owner) && is_name(model));
        let (owner, model) = found.ok_or_else(|| {
            let expected = "OWNER/MODEL, each of letters, digits, `-`, `_` and `.`";
            Error::argument("repository", expected, format!("`{text}`"))
        })?;
        Ok(RepoName { owner: owner.to_string(), model: model.to_string() })
    }
}

/// The hub's rule for names. Two hyphens in a row part the owner from the model in folder names.
fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let inner = !name.starts_with(['-', '.']) && !name.ends_with(['-', '.']);
    let length = (1..=NAME_CHARACTERS_MAX).contains(&name.len());
    length && inner && name.chars().all(allowed) && !name.contains("--") && !name.contains("..")
}

/// Whether `name` is a path of a file below a folder, on every operating system: a server's listing must not point out
/// of the repository's folder. A revision's name follows the same rule.
pub(super) fn is_inner_path(name: &str) -> bool {
    let odd = |c: char| c.is_control() || matches!(c, '\\' | ':' | '<' | '>' | '"' | '|' | '?' | '*');
    let parts_normal = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    parts_normal && !name.contains(odd) && name.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// Whether `text` is a hash of `digits` hexadecimal digits. Hashes of a server become names of files.
pub(super) fn is_hash(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A path as an address has it.
pub(super) fn as_path(path: &str) -> PercentEncode<'_> {
    utf8_percent_encode(path, IN_PATH)
}

/// A text as one part of an address's path.
pub(super) fn as_part(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, IN_PART)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_an_owner_and_a_model() {
        let name: RepoName = "Qwen/Qwen2.5-0.5B".parse().unwrap();
        assert_eq!((name.owner(), name.model()), ("Qwen", "Qwen2.5-0.5B"));
        assert_eq!(
            (name.to_string().as_str(), name.folder().as_str()),
            ("Qwen/Qwen2.5-0.5B", "models--Qwen--Qwen2.5-0.5B")
        );
        let long = format!("a/{}", "b".repeat(97));
        for text in ["", "gpt2", "a/", "/b", "a/b/c", "../b", "a/..", "a/b--c", "a/-b", "a/b ", "a\\b", "a/b:c", &long]
        {
            let message = text.parse::<RepoName>().unwrap_err().to_string();
            assert!(message.contains("OWNER/MODEL") && message.contains(text), "{message}");
        }
    }

    #[test]
    fn a_path_stays_inside() {
        for name in ["a", "a/b.gguf", ".gitattributes", "a b", "ä/ö", "a..b"] {
            assert!(is_inner_path(name), "{name}");
        }
        for name in ["", "/a", "..", "../a", "a/../b", "a//b", "a/", "./a", "a\\b", "C:a", "a\nb", "a/./b"] {
            assert!(!is_inner_path(name), "{name}");
        }
    }

    #[test]
    fn addresses_are_escaped() {
        assert_eq!(as_path("a b/ü-1.0_~?#%").to_string(), "a%20b/%C3%BC-1.0_~%3F%23%25");
        assert_eq!(as_part("refs/pr/1").to_string(), "refs%2Fpr%2F1");
    }

    #[test]
    fn a_hash_has_its_digits() {
        assert!(is_hash(&"0a".repeat(20), 40));
        for text in ["", &"0A".repeat(20), &"0g".repeat(20), &"0a".repeat(19), &"/.".repeat(20)] {
            assert!(!is_hash(text, 40), "{text}");
        }
    }
}

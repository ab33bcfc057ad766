//! What a revision of a repository has: its commit, and name, length and hash of each file.

use std::path::Path;

use serde::Deserialize;

use super::names::{is_hash, is_inner_path};
use crate::error::{Error, Result};
use crate::json;

/// Digits of a commit's and of a Git blob's hash.
const SHA1_DIGITS: usize = 40;
/// Digits of the hash of a file in Git's Large File Storage.
const SHA256_DIGITS: usize = 64;

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubFile {
    /// Its path in the repository, with forward slashes; it stays in the repository's folder.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Its hash. A cache without links doesn't have it.
    pub blob: Option<BlobId>,
}

/// The hash of a file, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlobId {
    /// SHA-256 of a file in Git's Large File Storage.
    Sha256(String),
    /// Git's own hash of a file: SHA-1 of a short header and the file.
    Git(String),
}

impl BlobId {
    /// The hash that the file name `text` of the hub's cache is, if it is one.
    pub(super) fn of_name(text: &str) -> Option<BlobId> {
        match text.len() {
            SHA256_DIGITS if is_hash(text, SHA256_DIGITS) => Some(BlobId::Sha256(text.to_string())),
            SHA1_DIGITS if is_hash(text, SHA1_DIGITS) => Some(BlobId::Git(text.to_string())),
            _ => None,
        }
    }

    /// The digits.
    pub fn text(&self) -> &str {
        match self {
            BlobId::Sha256(text) | BlobId::Git(text) => text,
        }
    }

    /// What hash it is, for people.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            BlobId::Sha256(_) => "SHA-256",
            BlobId::Git(_) => "Git's hash",
        }
    }
}

/// The files of one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listing {
    /// The commit's hash, 40 hexadecimal digits.
    pub commit: String,
    /// Every file.
    pub files: Vec<HubFile>,
}

/// The answer of the hub's API about a revision, as far as it is read.
#[derive(Deserialize)]
struct RevisionAnswer {
    sha: String,
    #[serde(default)]
    siblings: Vec<SiblingAnswer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SiblingAnswer {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<LargeFileAnswer>,
}

#[derive(Deserialize)]
struct LargeFileAnswer {
    sha256: String,
    size: u64,
}

impl Listing {
    /// The listing in `text`, which `url` answered, without files whose names cannot be those of files in a folder on
    /// every system: no model needs one. Fails where a file has no length or no hash.
    pub fn parse(url: &str, text: &str) -> Result<Listing> {
        let answer: RevisionAnswer = json::parse(Path::new(url), text)?;
        if !is_commit(&answer.sha) {
            return Err(Error::damaged(url, "sha", "a commit's hash", answer.sha));
        }
        let named = answer.siblings.into_iter().filter(|sibling| is_inner_path(&sibling.rfilename));
        let files = named.map(|sibling| file(url, sibling)).collect::<Result<_>>()?;
        Ok(Listing { commit: answer.sha, files })
    }
}

/// Whether `text` is a commit's hash.
pub(super) fn is_commit(text: &str) -> bool {
    is_hash(text, SHA1_DIGITS)
}

/// Bytes of a file at most, so that sums of them are numbers too.
const FILE_BYTES_MAX: u64 = 1 << 50;

fn file(url: &str, sibling: SiblingAnswer) -> Result<HubFile> {
    let SiblingAnswer { rfilename: name, size, blob_id, lfs } = sibling;
    let (bytes, blob) = match lfs {
        Some(lfs) => (Some(lfs.size), Some(lfs.sha256).filter(|hash| is_hash(hash, SHA256_DIGITS)).map(BlobId::Sha256)),
        None => (size, blob_id.filter(|hash| is_hash(hash, SHA1_DIGITS)).map(BlobId::Git)),
    };
    match (bytes, blob) {
        (Some(bytes), _) if bytes > FILE_BYTES_MAX => {
            Err(Error::damaged(url, name, format!("at most {FILE_BYTES_MAX} bytes"), bytes))
        }
        (Some(bytes), Some(blob)) => Ok(HubFile { name, bytes, blob: Some(blob) }),
        _ => Err(Error::damaged(url, name, "the file's length and its hash", "none")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(siblings: &str) -> Result<Listing> {
        let text = format!(r#"{{"sha": "{}", "private": false, "siblings": [{siblings}]}}"#, "c".repeat(40));
        Listing::parse("http://hub/api", &text)
    }

    #[test]
    fn lengths_and_hashes_are_those_of_the_files_and_not_of_pointers() {
        let (git, sha256) = ("1".repeat(40), "2".repeat(64));
        let listing = parse(&format!(
            r#"{{"rfilename": "config.json", "size": 7, "blobId": "{git}"}},
            {{"rfilename": "x/y.gguf", "size": 9, "blobId": "{git}", "lfs": {{"sha256": "{sha256}", "size": 9,
            "pointerSize": 130}}}}"#
        ));
        let listing = listing.unwrap();
        assert_eq!(listing.commit, "c".repeat(40));
        let file = |name: &str, bytes, blob| HubFile { name: name.into(), bytes, blob: Some(blob) };
        let expected = [file("config.json", 7, BlobId::Git(git)), file("x/y.gguf", 9, BlobId::Sha256(sha256))];
        assert_eq!(listing.files, expected);
    }

    #[test]
    fn what_would_leave_the_folder_is_left_out_or_refused() {
        let git = "1".repeat(40);
        let sibling = |name: &str, hash: &str| format!(r#"{{"rfilename": "{name}", "size": 7, "blobId": "{hash}"}}"#);
        assert!(parse(&sibling("a", &git)).is_ok());
        for name in ["../a", "/a", "a/../../b", "what?.png", "a:b", "a/\\\\b"] {
            let listing = parse(&format!("{}, {}", sibling(name, &git), sibling("a", &git))).unwrap();
            assert_eq!(listing.files.iter().map(|file| file.name.as_str()).collect::<Vec<_>>(), ["a"], "{name}");
        }
        for hash in ["../../a", ""] {
            let message = parse(&sibling("a", hash)).unwrap_err().to_string();
            assert!(message.contains("http://hub/api") && message.contains("got none"), "{message}");
        }
        let message = Listing::parse("u", r#"{"sha": "../x", "siblings": []}"#).unwrap_err().to_string();
        assert!(message.contains("a commit's hash, got ../x"), "{message}");
    }
}

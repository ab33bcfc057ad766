//! The facts that a file of tensors has about itself: JSON under a key of its own in the header's metadata.

use std::path::Path;

use serde::de::DeserializeOwned;

use super::container::Container;
use super::open_file::OpenFile;
use crate::error::{Error, Result};

/// Where the facts of a kind of file are.
pub struct FactsKey {
    /// The key in the header's `__metadata__`.
    pub key: &'static str,
    /// What such a file is called in messages.
    pub kind: &'static str,
}

impl FactsKey {
    /// The name of a field in messages; of all the facts where it is empty.
    pub fn named(&self, field: &str) -> String {
        format!("metadata {}{}{field}", self.key, if field.is_empty() { "" } else { "." })
    }

    /// The facts of an open file. Fails where it has none.
    pub fn of<'c>(&self, container: &'c Container, path: &Path) -> Result<&'c str> {
        container.fact(self.key).ok_or_else(|| self.fault(path, "none"))
    }

    /// Whether the safetensors file at `path` has such facts, of any version.
    pub fn are_in(&self, path: &Path) -> bool {
        let opened = OpenFile::open(path).and_then(|file| Container::open(file, |_| Ok(())));
        opened.is_ok_and(|container| container.fact(self.key).is_some())
    }

    /// The facts in `text`, or a part of them. Fails where it is none of the kind.
    pub fn parse<T: DeserializeOwned>(&self, path: &Path, text: &str) -> Result<T> {
        serde_json::from_str(text).map_err(|fault| self.fault(path, fault))
    }

    fn fault(&self, path: &Path, got: impl ToString) -> Error {
        Error::damaged(path, self.named(""), format!("the facts of a {}", self.kind), got)
    }
}

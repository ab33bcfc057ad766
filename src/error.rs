//! The library's one error type: every variant names the thing that is wrong and what was expected of it.

use std::fmt;
use std::path::{Path, PathBuf};

/// Shorthand used throughout the crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong between a model's source and its text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a file or folder.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// What was tried: "read", "write", "create", ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's word.
        source: std::io::Error,
    },
    /// There is no model where one was asked for.
    #[error("there is no model at `{}`: {advice}", path.display())]
    ModelMissing {
        /// Where a model was expected.
        path: PathBuf,
        /// The command that gets one.
        advice: String,
    },
    /// A file is not what its header, its manifest or its format says.
    #[error("`{}` is damaged: {what}: expected {expected}, got {got}", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// The tensor, field or range at fault.
        what: String,
        /// What a sound file holds there.
        expected: String,
        /// What this one holds.
        got: String,
    },
    /// A chat template does not take the conversation.
    #[error("`{}`{}: {message}", file.display(), line.map_or_else(String::new, |line| format!(", line {line}")))]
    Template {
        /// The template's file.
        file: PathBuf,
        /// The line at which it stopped, where known.
        line: Option<usize>,
        /// What it said.
        message: String,
    },
    /// A sound file asks for something that this version does not do.
    #[error("{what} `{got}` is not supported; supported: {supported}")]
    Unsupported {
        /// The kind of thing: "architecture", "tensor dtype", ...
        what: String,
        /// The one asked for.
        got: String,
        /// Those that would work.
        supported: String,
    },
    /// A value given by the caller lies outside what can be done.
    #[error("{name}: expected {expected}, got {got}")]
    InvalidArgument {
        /// The setting, field or parameter.
        name: String,
        /// The values that would work.
        expected: String,
        /// The value given.
        got: String,
    },
    /// A grammar or a JSON schema cannot be followed, or not any further.
    #[error("{name}{}: expected one that can be followed, got {fault}", in_field(field))]
    Grammar {
        /// What the answer is to follow: "JSON schema", "grammar", ...
        name: String,
        /// The JSON pointer of a schema's field at fault; empty where it is the whole or not known.
        field: String,
        /// What is wrong.
        fault: String,
    },
    /// The conversation no longer fits in the context.
    #[error(
        "the prompt has {tokens} tokens and the context holds {context}: \
         shorten it or take a larger context (this model was trained for {trained})"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens that the context holds.
        context: usize,
        /// Context the model was trained for.
        trained: usize,
    },
    /// No adapter answers to the name or number given.
    #[error("no device `{asked}`; {available}")]
    NoSuchDevice {
        /// The name or number that was asked for.
        asked: String,
        /// The devices there are, in words.
        available: String,
    },
    /// The device has no room for a model's keys and values.
    #[error(
        "{device} has no room for a context of {context} tokens, whose keys and values take {} MiB; a smaller one \
         takes less: {message}", bytes.div_ceil(1 << 20)
    )]
    NoRoomForContext {
        /// The adapter's name.
        device: String,
        /// Tokens that the context should hold.
        context: u32,
        /// Bytes of their keys and values.
        bytes: u64,
        /// What the device said.
        message: String,
    },
    /// The GPU or its driver refused or failed.
    #[error("{device}: {message}")]
    Device {
        /// The adapter's name.
        device: String,
        /// What it said.
        message: String,
    },
    /// A step of the model gave no finite number where the choice of a token needs one. An activation, a key or a value
    /// has left the range of its type, because the weights are not what they should be or because the device computes
    /// wrongly.
    #[error("the model gives no numbers on {device}: no logit is finite after {tokens} tokens of the context")]
    NoNumbers {
        /// The device that computed.
        device: String,
        /// Tokens of the context, up to and including the one whose logits are no numbers.
        tokens: usize,
    },
    /// An application's own error, with which its callback ended the work: [`Error::caller`] makes it. Its text and its
    /// source are those of the error inside, which `downcast` gives back as the type that it was.
    #[error(transparent)]
    Caller(Box<dyn std::error::Error + Send + Sync>),
    /// A server did not give what was asked of it, or could not be reached.
    #[error("cannot get `{url}`: {message}")]
    Download {
        /// The address.
        url: String,
        /// What it answered, or why it did not, and what may help.
        message: String,
    },
    /// The caller asked for a stop before the work was done: by a [`CancelToken`](crate::CancelToken) or a callback.
    #[error("stopped before {0} was done")]
    Stopped(&'static str),
}

impl Error {
    /// An [`Error::Io`] for `path`, to be used with `map_err`.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { action, path, source }
    }

    /// An [`Error::Damaged`] for `file`.
    pub fn damaged(
        file: impl AsRef<Path>,
        what: impl Into<String>,
        expected: impl ToString,
        got: impl ToString,
    ) -> Error {
        Error::Damaged {
            file: file.as_ref().to_path_buf(),
            what: what.into(),
            expected: expected.to_string(),
            got: got.to_string(),
        }
    }

    /// The error of `what`, of which the work that failed is a part: where that was stopped, `what` was.
    pub fn within(self, what: &'static str) -> Error {
        if let Error::Stopped(_) = self { Error::Stopped(what) } else { self }
    }

    /// The same error, with the file that asks for what is not supported; to be used with `map_err`.
    pub fn in_file(file: impl AsRef<Path>) -> impl FnOnce(Error) -> Error {
        let file = file.as_ref().to_path_buf();
        move |error| match error {
            Error::Unsupported { what, got, supported } => {
                Error::Unsupported { what: format!("`{}`: {what}", file.display()), got, supported }
            }
            other => other,
        }
    }

    /// The same error about `file`, which the caller named, where it names another one that stands for it.
    pub(crate) fn about(self, file: &Path) -> Error {
        let file = file.to_path_buf();
        match self {
            Error::Io { action, source, .. } => Error::Io { action, path: file, source },
            Error::Damaged { what, expected, got, .. } => Error::Damaged { file, what, expected, got },
            other => other,
        }
    }

    /// An [`Error::Caller`] for an application's own error, to be used with `map_err` in a callback.
    ///
    /// ```
    /// # use edge_run::Error;
    /// #[derive(Debug, thiserror::Error)]
    /// #[error("the window was closed")]
    /// struct Closed;
    ///
    /// let Error::Caller(inner) = Error::caller(Closed) else { panic!("it is the caller's") };
    /// assert!(inner.downcast::<Closed>().is_ok());
    /// ```
    pub fn caller(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::Caller(error.into())
    }

    /// An [`Error::InvalidArgument`] for `name`.
    pub fn argument(name: impl Into<String>, expected: impl ToString, got: impl ToString) -> Error {
        Error::InvalidArgument { name: name.into(), expected: expected.to_string(), got: got.to_string() }
    }

    /// An [`Error::Grammar`].
    pub fn grammar(name: impl Into<String>, field: impl Into<String>, fault: impl Into<String>) -> Error {
        Error::Grammar { name: name.into(), field: field.into(), fault: fault.into() }
    }

    /// An [`Error::Unsupported`].
    pub fn unsupported(what: impl Into<String>, got: impl ToString, supported: impl ToString) -> Error {
        Error::Unsupported { what: what.into(), got: got.to_string(), supported: supported.to_string() }
    }
}

/// Bytes for people, rounded up.
pub(crate) fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

/// The field at fault, for an error, with long names in it shortened; nothing where there is none.
fn in_field(field: &str) -> String {
    if field.is_empty() {
        return String::new();
    }
    let names: Vec<String> = field.split('/').map(shortened).collect();
    format!(": field `{}`", names.join("/"))
}

/// The item of `all` that is written `name`; fails with an [`Error::InvalidArgument`] about `what`, which lists them.
pub fn one_of<T: Copy + fmt::Display>(what: &str, all: &[T], name: &str) -> Result<T> {
    let found = all.iter().find(|item| item.to_string() == name).copied();
    let expected = || all.iter().map(T::to_string).collect::<Vec<_>>().join(", ");
    found.ok_or_else(|| Error::argument(what, format!("one of {}", expected()), name))
}

/// A warning about a value of `file` that nothing depends on and that cannot be followed.
pub fn as_absent(file: impl AsRef<Path>, what: &str, expected: impl fmt::Display, got: impl fmt::Display) -> String {
    let got = shortened(&got.to_string());
    format!("`{}`: {what}: expected {expected}, got {got}; it counts as absent", file.as_ref().display())
}

/// A value in a length that a line of a message bears.
pub fn shortened(text: &str) -> String {
    shortened_to(text, 80)
}

/// The first `most` characters of a text, and a sign where there are more.
pub fn shortened_to(text: &str, most: usize) -> String {
    if text.chars().count() <= most { text.to_string() } else { text.chars().take(most).chain(['…']).collect() }
}

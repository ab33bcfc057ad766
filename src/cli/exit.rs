//! How the program ends: the one table of exit codes, and the sentence that goes with a failure.

use std::error::Error as _;
use std::fmt::Write as _;

use super::flags;
use edge_run::internals::cpu;
use edge_run::internals::error::Error;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All was done.
    Done = 0,
    /// Something else failed.
    Failed = 1,
    /// The command line asks for something that cannot be.
    Usage = 2,
    /// There is no model.
    ModelMissing = 3,
    /// A file is damaged.
    Damaged = 4,
    /// A file is of a kind that this version does not run.
    Unsupported = 5,
    /// The prompt does not fit.
    PromptTooLong = 6,
    /// No device of that name or number.
    NoSuchDevice = 7,
    /// The device or its driver failed.
    Device = 8,
    /// Stopped by Ctrl-C or another signal that asks for it: 128 and the number of SIGINT, as shells report it.
    Stopped = 130,
}

/// Every way to end, in words, as the help shows it.
pub const TABLE: [(Exit, &str); 10] = [
    (Exit::Done, "done"),
    (Exit::Failed, "a file, the network or the operating system failed"),
    (Exit::Usage, "the command line cannot be followed"),
    (Exit::ModelMissing, "there is no model where one was asked for"),
    (Exit::Damaged, "a file is damaged or is not what it should be"),
    (Exit::Unsupported, "a file needs something that this version does not have"),
    (Exit::PromptTooLong, "the prompt is longer than the context"),
    (Exit::NoSuchDevice, "no device answers to that name or number"),
    (Exit::Device, "the device or its driver failed, or computed no numbers"),
    (Exit::Stopped, "stopped with Ctrl-C, TERM or HUP"),
];

impl Exit {
    /// The code that the operating system sees.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// How the program ends after `error`.
    pub fn after(error: &Error) -> Exit {
        match error {
            Error::InvalidArgument { .. } | Error::Grammar { .. } => Exit::Usage,
            Error::ModelMissing { .. } => Exit::ModelMissing,
            // Of a template that cannot be compiled, and of one that does not take the conversation.
            Error::Damaged { .. } | Error::Template { .. } => Exit::Damaged,
            Error::Unsupported { .. } => Exit::Unsupported,
            Error::PromptTooLong { .. } => Exit::PromptTooLong,
            Error::NoSuchDevice { .. } => Exit::NoSuchDevice,
            Error::Device { .. } | Error::NoNumbers { .. } | Error::NoRoomForContext { .. } => Exit::Device,
            Error::Stopped(_) => Exit::Stopped,
            // Files, and what later versions of the library may fail with.
            _ => Exit::Failed,
        }
    }
}

/// The part of the help that explains exit codes.
pub fn help() -> String {
    TABLE.iter().fold("Exit codes:".to_string(), |mut help, (exit, meaning)| {
        let _ = write!(help, "\n  {:>3}  {meaning}", exit.code());
        help
    })
}

/// What may help after `error`, for whoever typed the command.
pub fn advice(error: &Error) -> Option<String> {
    let Error::NoNumbers { device, .. } = error else { return None };
    // What the device does already is no advice.
    let otherwise = match *device == cpu::device().name {
        true => "--activations f32",
        false => "--device cpu, --activations f32 or --no-cooperative-matrix",
    };
    Some(format!(
        "try: `edge-run verify MODEL`, to see whether the model's files are sound; {otherwise}, to compute otherwise; \
         another --cache-type. If none helps, the model's own weights leave the range of numbers"
    ))
}

/// The error in one line, with those of its causes that it does not tell itself.
pub fn sentence(error: &Error) -> String {
    let mut sentence = match error {
        // Drivers and wgpu speak in paragraphs.
        Error::Device { .. } => {
            let message = flags::message(error);
            let lines = message.lines().map(str::trim).filter(|line| !line.is_empty());
            lines.collect::<Vec<_>>().join("; ")
        }
        _ => flags::message(error),
    };
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !sentence.contains(&text) {
            let _ = write!(sentence, ": {text}");
        }
        cause = error.source();
    }
    sentence
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_table_has_every_code_once() {
        let codes: Vec<u8> = TABLE.iter().map(|(exit, _)| exit.code()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7, 8, 130]);
        let meanings: HashSet<&str> = TABLE.iter().map(|(_, meaning)| *meaning).collect();
        assert_eq!(meanings.len(), TABLE.len());
        assert!(TABLE.iter().all(|(exit, meaning)| help().contains(&format!("{:>3}  {meaning}", exit.code()))));
    }

    #[test]
    fn advice_names_no_device_that_computes_already() {
        let on = |device: &str| advice(&Error::NoNumbers { device: device.into(), tokens: 1 }).unwrap();
        assert!(on("GeForce").contains("sound; --device cpu, --activations f32 or --no-cooperative-matrix, to"));
        let processor = on(&cpu::device().name);
        assert!(processor.contains("sound; --activations f32, to compute otherwise"), "{processor}");
        assert!(!processor.contains("--device") && !processor.contains("matrix"), "{processor}");
        assert_eq!(advice(&Error::Stopped("work")), None);
    }

    #[test]
    fn each_class_of_error_has_its_own_code() {
        let io = Error::io("read", "f")(std::io::Error::other("disk on fire"));
        assert_eq!(sentence(&io), "cannot read `f`: disk on fire");
        let device =
            Error::Device { device: "GPU".into(), message: "Validation Error\n\nCaused by:\n  a limit\n".into() };
        assert_eq!(sentence(&device), "GPU: Validation Error; Caused by:; a limit");
        let word = String::new;
        let classes = [
            io,
            Error::argument("--temp", "0 or more", -1),
            Error::ModelMissing { path: "m".into(), advice: word() },
            Error::damaged("f", "length", 2, 1),
            Error::Template { file: "f".into(), line: None, message: word() },
            Error::Unsupported { what: word(), got: word(), supported: word() },
            Error::PromptTooLong { tokens: 2, context: 1, trained: 1 },
            Error::NoSuchDevice { asked: word(), available: word() },
            Error::Device { device: word(), message: word() },
            Error::NoNumbers { device: word(), tokens: 1 },
            Error::Stopped("quantize"),
        ];
        let codes: Vec<u8> = classes.iter().map(|error| Exit::after(error).code()).collect();
        assert_eq!(codes, [1, 2, 3, 4, 4, 5, 6, 7, 8, 8, 130]);
    }
}

//! The one place that knows which flag gives a setting: the library's errors name settings, and people type flags.

use edge_run::internals::error::Error;

/// Settings as the library names them in [`Error::InvalidArgument`] and [`Error::Grammar`], each with its flag.
const FLAGS: [(&str, &str); 30] = [
    ("JSON object", "--json-object"),
    ("JSON schema", "--json-schema"),
    ("activations", "--activations"),
    ("batch", "--batch"),
    ("bits", "--bits"),
    ("cache type", "--cache-type"),
    ("calibration", "--calibration"),
    ("chat template", "--chat-template"),
    ("grammar", "--grammar"),
    ("group size", "--group-size"),
    ("logit bias", "--logit-bias"),
    ("memory", "--memory"),
    ("memory budget", "--memory-budget"),
    ("min-p", "--min-p"),
    ("pre-tokenizer", "--pre-tokenizer"),
    ("repeat penalty", "--repeat-penalty"),
    ("revision", "--revision"),
    ("sequence length", "--seq"),
    ("shuffled gates", "--shuffle-gates"),
    ("step tokens", "--ubatch-size"),
    ("steps", "--steps"),
    ("stop string", "--stop"),
    ("synthetic model", "--synthetic"),
    ("temperature", "--temp"),
    ("text", "--text"),
    ("top", "--top"),
    ("top-p", "--top-p"),
    ("type", "--type"),
    ("window", "--window"),
    ("windows", "--windows"),
];

/// Advice of the library's errors, each with the words that say how to follow it on the command line.
const ADVICE: [(&str, &str); 4] = [
    ("a file, which was not to be replaced", "a file: --force replaces it"),
    ("take a larger context", "raise --ctx-size"),
    ("a model, which was not to be replaced", "a model: --force replaces it"),
    ("int8 activations need", "--activations int8 needs"),
];

/// What the error says, with flags in place of settings.
pub fn message(error: &Error) -> String {
    let mut message = error.to_string();
    if let Error::InvalidArgument { name, .. } | Error::Grammar { name, .. } = error
        && let Some((setting, flag)) = FLAGS.iter().find(|(setting, _)| begins(name, setting))
    {
        message.replace_range(..setting.len(), flag);
    }
    if let Error::InvalidArgument { .. } | Error::PromptTooLong { .. } | Error::Device { .. } = error {
        for (library, command_line) in ADVICE {
            message = message.replacen(library, command_line, 1);
        }
    }
    message
}

/// Whether a name is the setting, or that and what belongs to it: the file that it names, or a field.
fn begins(name: &str, setting: &str) -> bool {
    let rest = name.strip_prefix(setting);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(" `") || rest.starts_with(": "))
}

/// An error about the context of a command that has a flag for it, with that flag.
pub fn of_context(error: Error) -> Error {
    match error {
        Error::InvalidArgument { name, expected, got } if name == "context" => {
            Error::InvalidArgument { name: "--ctx-size".to_string(), expected, got }
        }
        Error::NoRoomForContext { device, context, bytes, message } => {
            Error::NoRoomForContext { device, context, bytes, message: format!("{message} (-c sets the context)") }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory;

    use super::*;
    use crate::cli::args::Cli;

    #[test]
    fn every_flag_of_the_table_is_one_of_the_command_line() {
        let command = Cli::command();
        let commands = std::iter::once(&command).chain(command.get_subcommands());
        let flags: BTreeSet<String> =
            commands.flat_map(|c| c.get_arguments()).filter_map(|a| a.get_long()).map(|f| format!("--{f}")).collect();
        for (setting, flag) in FLAGS {
            assert!(flags.contains(flag), "{setting}: {flag}");
        }
        assert!(FLAGS.is_sorted());
    }

    #[test]
    fn settings_become_flags_and_other_names_stay() {
        let told = |name: &str| message(&Error::argument(name, 1, 2));
        assert_eq!(told("top-p"), "--top-p: expected 1, got 2");
        assert_eq!(told("memory budget"), "--memory-budget: expected 1, got 2");
        assert_eq!(told("calibration `p`"), "--calibration `p`: expected 1, got 2");
        assert_eq!(told("synthetic model: heads"), "--synthetic: heads: expected 1, got 2");
        for name in ["token id", "context", "bits of it", "messages", "--temp", "texts"] {
            assert_eq!(told(name), format!("{name}: expected 1, got 2"));
        }
    }

    #[test]
    fn advice_is_given_in_flags() {
        let told = message(&Error::PromptTooLong { tokens: 9, context: 8, trained: 16 });
        assert!(told.contains("shorten it or raise --ctx-size (this model was trained for 16)"), "{told}");
        let refused = Error::argument("output `m`", "a path where nothing is", "a model, which was not to be replaced");
        assert!(message(&refused).ends_with("got a model: --force replaces it"));
        let device = Error::Device { device: "GPU".into(), message: "no; int8 activations need 8 and 9".into() };
        assert_eq!(message(&device), "GPU: no; --activations int8 needs 8 and 9");
    }
}

//! What the words of the command line mean together, with the defaults filled in.

use std::fs::File;
use std::io::{ErrorKind, IsTerminal};
use std::path::Path;

use clap::CommandFactory;

use super::args::{Cli, GenerateArgs, ModelArgs};
use super::models::model_dir;
use super::paths::{FETCH_COMMAND, default_model_dir, no_default_model};
use edge_run::internals::encoding;
use edge_run::internals::error::{Error, Result};
use edge_run::internals::format::{MANIFEST_FILE, ModelFolder};
use edge_run::internals::precision::PrecisionPlan;

/// Context of a conversation where nothing else is asked for, in tokens: the cache of a large model for all that it was
/// trained for would not fit on small devices.
const DEFAULT_CONTEXT: u32 = 4096;

/// MiB of a text to measure by at most: it is held in memory with its tokens.
const TEXT_MIB_MAX: u64 = 1024;
/// MiB of a prompt, of a line of a conversation or of a grammar at most, which is more tokens than any context has.
pub const REQUEST_MIB_MAX: u64 = 16;

/// What stands for standard input in the place of a prompt or of a file.
pub const STANDARD_INPUT: &str = "-";

/// The prompt, from the one place where it is.
pub fn prompt(args: &GenerateArgs) -> Result<String> {
    let given = [
        args.prompt.as_ref().map(|_| "the prompt itself"),
        args.prompt_flag.as_ref().map(|_| "--prompt"),
        args.prompt_file.as_ref().map(|_| "--file"),
    ];
    let given: Vec<&str> = given.into_iter().flatten().collect();
    if given.len() > 1 {
        return Err(Error::argument("the prompt", "one source", given.join(" and ")));
    }
    let prompt = match args {
        GenerateArgs { prompt: Some(prompt), .. } | GenerateArgs { prompt_flag: Some(prompt), .. }
            if prompt == STANDARD_INPUT =>
        {
            without_line_break(read_request("the prompt", Path::new(prompt))?)
        }
        GenerateArgs { prompt: Some(prompt), .. } => not_a_command(prompt)?,
        GenerateArgs { prompt_flag: Some(prompt), .. } => prompt.clone(),
        GenerateArgs { prompt_file: Some(file), .. } => without_line_break(read_request("--file", file)?),
        _ if std::io::stdin().is_terminal() => {
            return Err(Error::argument(
                "the prompt",
                "text after the options, -p TEXT, -f FILE or standard input (- reads it from the terminal too)",
                "none",
            ));
        }
        _ => without_line_break(read_request("the prompt", Path::new(STANDARD_INPUT))?),
    };
    if prompt.is_empty() { Err(Error::argument("the prompt", "some text", "none")) } else { Ok(prompt) }
}

/// What errors call the text in `file`, which the flag `name` gave.
pub fn text_name(name: &str, file: &Path) -> String {
    if file == Path::new(STANDARD_INPUT) { "standard input".into() } else { format!("{name} `{}`", file.display()) }
}

/// The text of `file`, which the flag `name` gave and which may be long, as one to measure by; `-` is standard input,
/// and a pipe is read to its end. It may be UTF-8, or UTF-16 with its mark.
pub fn read_text(name: &str, file: &Path) -> Result<String> {
    read_text_of(name, file, TEXT_MIB_MAX)
}

/// As [`read_text`], of a text that is part of a request: a prompt or a grammar.
pub fn read_request(name: &str, file: &Path) -> Result<String> {
    read_text_of(name, file, REQUEST_MIB_MAX)
}

fn read_text_of(name: &str, file: &Path, mib_max: u64) -> Result<String> {
    let unreadable = |fault: std::io::Error| {
        let words = format!("{fault}; {name} names this file");
        Error::io("read", file)(std::io::Error::new(fault.kind(), words))
    };
    let read = if file == Path::new(STANDARD_INPUT) {
        encoding::read_at_most(std::io::stdin(), mib_max << 20).map_err(Error::io("read", "standard input"))?
    } else if file.is_dir() {
        // Windows would say that access is denied.
        return Err(unreadable(ErrorKind::IsADirectory.into()));
    } else {
        let opened = File::open(file).map_err(unreadable)?;
        encoding::read_at_most(opened, mib_max << 20).map_err(unreadable)?
    };
    let too_long = || Error::argument(text_name(name, file), format!("at most {mib_max} MiB of text"), "more");
    let bytes = read.ok_or_else(too_long)?;
    encoding::decode(bytes).map_err(|fault| Error::argument(text_name(name, file), encoding::EXPECTED, fault))
}

/// The plan that --bits asks for, of a model that `has_routers` or not.
pub fn plan_for_bits(bits: f32, has_routers: bool) -> Result<PrecisionPlan> {
    let plan = PrecisionPlan::for_bits(bits, has_routers, format!("--bits {bits}"));
    plan.map_err(|error| match error {
        Error::InvalidArgument { expected, got, .. } => Error::argument("--bits", expected, got),
        other => other,
    })
}

/// Tokens of context for a model that was trained for `trained`.
pub fn context(asked: Option<u32>, trained: u32) -> Result<u32> {
    match asked {
        None => Ok(trained.min(DEFAULT_CONTEXT)),
        Some(0) => Ok(trained),
        Some(tokens) if tokens <= trained => Ok(tokens),
        Some(tokens) => {
            Err(Error::argument("--ctx-size", format!("at most {trained}, which this model was trained for"), tokens))
        }
    }
}

/// Tokens to generate at most.
pub fn max_new(args: &GenerateArgs) -> Option<usize> {
    usize::try_from(args.n_predict).ok()
}

/// Opens the model asked for, or the default one.
pub fn open_model(args: &ModelArgs) -> Result<ModelFolder> {
    let Some(dir) = &args.model else {
        let dir = default_model_dir().map_err(|_| no_default_model())?;
        let advice = format!("`{FETCH_COMMAND}` gets it; -m DIR names another");
        return if dir.join(MANIFEST_FILE).exists() {
            ModelFolder::open(&dir)
        } else {
            Err(Error::ModelMissing { path: dir, advice })
        };
    };
    ModelFolder::open(&model_dir(dir)?)
}

/// The positional prompt, unless it is a command that came after options: `-v devices` is hardly a question.
fn not_a_command(prompt: &str) -> Result<String> {
    if Cli::command().find_subcommand(prompt).is_some() {
        let expected = format!("the command before its options, or -p {prompt} for a prompt");
        return Err(Error::argument(format!("`{prompt}`"), expected, "options before it"));
    }
    Ok(prompt.to_string())
}

/// Editors and `echo` end a text with a line break that is no part of the question.
fn without_line_break(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use edge_run::internals::engine::Activations;
    use edge_run::internals::precision::CacheType;

    fn parse(words: &[&str]) -> GenerateArgs {
        Cli::parse_from(std::iter::once(&"edge-run").chain(words)).generate
    }

    #[test]
    fn a_prompt_comes_from_one_place() {
        assert_eq!(prompt(&parse(&["Hi there"])).unwrap(), "Hi there");
        assert_eq!(prompt(&parse(&["-p", "-dash"])).unwrap(), "-dash");
        assert_eq!(prompt(&parse(&["-p", "devices"])).unwrap(), "devices");
        for words in [&["a", "-p", "b"][..], &["a", "-f", "b"], &["-p", "a", "-f", "b"], &[""], &["-v", "devices"]] {
            let error = prompt(&parse(words)).unwrap_err();
            assert!(matches!(error, Error::InvalidArgument { .. }), "{words:?}: {error}");
        }
    }

    #[test]
    fn one_line_break_at_the_end_is_left_out() {
        let cases = [("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a", "a"), ("\r", "\r"), ("", "")];
        for (text, expected) in cases {
            assert_eq!(without_line_break(text.into()), expected);
        }
    }

    #[test]
    fn the_context_is_never_longer_than_the_training() {
        assert_eq!([context(None, 8192).unwrap(), context(None, 2048).unwrap()], [4096, 2048]);
        assert_eq!([context(Some(0), 8192).unwrap(), context(Some(100), 8192).unwrap()], [8192, 100]);
        let message = context(Some(8193), 8192).unwrap_err().to_string();
        assert_eq!(message, "--ctx-size: expected at most 8192, which this model was trained for, got 8193");
    }

    #[test]
    fn a_source_in_the_place_of_a_model_is_told_from_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("model.gguf");
        std::fs::write(&file, "GGUF").unwrap();
        let args = ModelArgs {
            model: Some(file),
            device: None,
            gpu_checks: false,
            ubatch_size: None,
            head_bits: None,
            cache_type: CacheType::default(),
            activations: Activations::Auto,
            no_cooperative_matrix: false,
        };
        let message = open_model(&args).err().unwrap().to_string();
        assert!(message.contains("edge-run quantize"), "{message}");
    }
}

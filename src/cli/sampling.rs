//! How the tokens of an answer are chosen: the sampler's flags, and what an answer may say.

use std::path::{Path, PathBuf};

use clap::Args;

use super::numbers;
use super::settings::read_request;
use edge_run::internals::error::{Error, Result};
use edge_run::internals::session::Session;
use edge_run::internals::text::{GenerationDefaults, Grammar, LogitBias, SamplerSettings};

/// How the next token is chosen. Without a flag, the model's own recommendation counts, then what llama.cpp does.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Temperature; 0 or less for the likeliest token always [default: the model's, or 0.8]
    #[arg(long, value_name = "T", allow_negative_numbers = true, value_parser = numbers::temperature)]
    pub temp: Option<f32>,
    /// Draw from the K likeliest tokens; 0 or less for all [default: the model's, or 40]
    #[arg(long, value_name = "K", allow_negative_numbers = true, value_parser = numbers::or_all::<usize>)]
    pub top_k: Option<usize>,
    /// Draw from the likeliest tokens that together have this probability [default: the model's, or 0.95]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub top_p: Option<f32>,
    /// Draw from tokens with at least this part of the likeliest one's probability [default: the model's, or
    /// 0.05]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub min_p: Option<f32>,
    /// Make the last 64 tokens less likely, 0.01 to 100; 1 for not at all [default: the model's, or 1]
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    pub repeat_penalty: Option<f32>,
    /// Seed of the draws; less than 0 for a random one
    #[arg(
        short = 's',
        long,
        value_name = "SEED",
        default_value = "-1",
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(i64).range(..=i64::from(u32::MAX))
    )]
    pub seed: i64,
}

/// What an answer may say, and what is told of its tokens.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Answer")]
pub struct ChoiceArgs {
    /// End the answer at this text, which is not shown; may be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub stop: Vec<String>,
    /// Add VALUE to the logit of a token, -inf to forbid it; may be given several times
    #[arg(long, value_name = "ID=VALUE", value_parser = bias)]
    pub logit_bias: Vec<(u32, f32)>,
    /// With --json, tell each token's log-probability and the N likeliest tokens of each choice
    #[arg(long, value_name = "N", requires = "json")]
    pub logprobs: Option<usize>,
    /// Answer with JSON that the schema in this file describes, - for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json_object", "grammar"])]
    pub json_schema: Option<PathBuf>,
    /// Answer with a JSON object
    #[arg(long, conflicts_with = "grammar")]
    pub json_object: bool,
    /// Answer with text that the grammar in this file describes, in Lark's syntax, - for standard input
    #[arg(long, value_name = "FILE")]
    pub grammar: Option<PathBuf>,
    /// Guess the next tokens by what followed the same ones before; the answer is the same [default: on for the CPU
    /// engine]
    #[arg(long, value_name = "on|off", hide_possible_values = true)]
    #[arg(value_parser = clap::builder::BoolishValueParser::new())]
    pub prompt_lookup: Option<bool>,
}

/// The sampling asked for; else what the model's makers recommend; else what llama.cpp does.
pub fn sampling(args: &SamplingArgs, model: &GenerationDefaults) -> Result<SamplerSettings> {
    let recommended = model.sampling();
    let settings = SamplerSettings {
        temperature: args.temp.unwrap_or(recommended.temperature),
        top_k: args.top_k.unwrap_or(recommended.top_k),
        top_p: args.top_p.unwrap_or(recommended.top_p),
        min_p: args.min_p.unwrap_or(recommended.min_p),
        repeat_penalty: args.repeat_penalty.unwrap_or(recommended.repeat_penalty),
        seed: u32::try_from(args.seed).ok(),
        ..recommended
    };
    settings.check().map(|()| settings)
}

/// What the flags ask of answers, read and checked before any weight is.
pub struct AskedChoices<'a> {
    args: &'a ChoiceArgs,
    bias: LogitBias,
    grammar: Option<Grammar>,
}

impl ChoiceArgs {
    /// Reads the files that are named. Fails where one is not there or is not what its flag says.
    pub fn read(&self) -> Result<AskedChoices<'_>> {
        let grammar = match self {
            ChoiceArgs { json_schema: Some(file), .. } => {
                Some(Grammar::json_schema(&read_request("--json-schema", file)?).map_err(|error| within(error, file))?)
            }
            ChoiceArgs { grammar: Some(file), .. } => {
                Some(Grammar::lark(&read_request("--grammar", file)?).map_err(|error| within(error, file))?)
            }
            ChoiceArgs { json_object: true, .. } => Some(Grammar::json()?),
            _ => None,
        };
        Ok(AskedChoices { args: self, bias: LogitBias::new(self.logit_bias.iter().copied())?, grammar })
    }
}

/// An error about a text with the file that it is in.
fn within(error: Error, file: &Path) -> Error {
    let in_file = |name: String| format!("{name} `{}`", file.display());
    match error {
        Error::InvalidArgument { name, expected, got } => Error::InvalidArgument { name: in_file(name), expected, got },
        Error::Grammar { name, field, fault } => Error::Grammar { name: in_file(name), field, fault },
        other => other,
    }
}

impl AskedChoices<'_> {
    /// Asks it of a session.
    pub fn apply(&self, session: &mut Session) -> Result<()> {
        session.set_stop_strings(&self.args.stop)?;
        session.set_logit_bias(self.bias.clone())?;
        session.set_logprobs(self.args.logprobs);
        if let Some(looks_up) = self.args.prompt_lookup {
            session.set_prompt_lookup(looks_up);
        }
        session.set_grammar(self.grammar.as_ref()).map_err(|error| self.told(error))
    }

    /// An error of an answer, with the file of the grammar where it is about that.
    pub fn told(&self, error: Error) -> Error {
        match (&error, self.args.json_schema.as_ref().or(self.args.grammar.as_ref())) {
            (Error::Grammar { .. }, Some(file)) => within(error, file),
            _ => error,
        }
    }
}

/// A token id and its bias.
fn bias(text: &str) -> std::result::Result<(u32, f32), String> {
    let parts = text.split_once('=').and_then(|(id, value)| Some((id.parse().ok()?, value.parse().ok()?)));
    parts.ok_or_else(|| "expected a token id and a number, such as 42=-1.5".to_string())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::Cli;

    fn parse(line: &str) -> std::result::Result<ChoiceArgs, clap::Error> {
        Cli::try_parse_from(std::iter::once("edge-run").chain(line.split(' '))).map(|cli| cli.generate.choice)
    }

    fn flags(line: &str) -> SamplingArgs {
        Cli::parse_from(std::iter::once("edge-run").chain(line.split(' '))).generate.sampling
    }

    #[test]
    fn a_flag_stands_above_the_model_and_the_model_above_the_default() {
        let model = GenerationDefaults { temperature: Some(0.2), top_k: Some(10), ..Default::default() };
        let settings = sampling(&flags("--temp 0.5 x"), &model).unwrap();
        assert_eq!((settings.temperature, settings.top_k, settings.top_p, settings.seed), (0.5, 10, 0.95, None));
        // A negative temperature is llama.cpp's for the likeliest token.
        assert_eq!(sampling(&flags("--temp -1 x"), &model).unwrap().temperature, 0.0);
        assert!(sampling(&flags("--temp nan x"), &model).is_err());

        let model = GenerationDefaults { min_p: Some(0.2), repeat_penalty: Some(1.9), ..Default::default() };
        let all = |line: &str| {
            let settings = sampling(&flags(line), &model).unwrap();
            (settings.min_p, settings.repeat_penalty)
        };
        assert_eq!(all("x"), (0.2, 1.9));
        assert_eq!(all("--min-p 0.1 --repeat-penalty 1 x"), (0.1, 1.0));
    }

    #[test]
    fn what_an_answer_may_say_is_read_from_flags() {
        let args =
            parse("--stop ### --stop -- --logit-bias 7=-1.5 --logit-bias 8=-inf --json --logprobs 3 Hi").unwrap();
        assert_eq!((args.stop, args.logprobs), (vec!["###".into(), "--".into()], Some(3)));
        assert_eq!(args.logit_bias, [(7, -1.5), (8, f32::NEG_INFINITY)]);
        for line in ["--logprobs 3 Hi", "--logit-bias 7 Hi", "--logit-bias -1=2 Hi", "--json-object --grammar f Hi"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    /// A command line may name several files.
    #[test]
    fn a_file_that_cannot_be_read_is_told_with_its_flag() {
        let folder = tempfile::tempdir().unwrap();
        for file in [folder.path().to_path_buf(), folder.path().join("absent")] {
            for flag in ["--json-schema", "--grammar"] {
                let given = |name: &str| Some(file.clone()).filter(|_| name == flag);
                let (json_schema, grammar) = (given("--json-schema"), given("--grammar"));
                let error = ChoiceArgs { json_schema, grammar, ..ChoiceArgs::default() }.read().err().unwrap();
                let told = crate::cli::exit::sentence(&error);
                let begins = told.starts_with(&format!("cannot read `{}`: ", file.display()));
                assert!(begins && told.ends_with(&format!("; {flag} names this file")), "{told}");
            }
        }
    }

    #[test]
    fn a_schema_that_cannot_be_followed_is_told_with_its_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{").unwrap();
        let args = ChoiceArgs { json_schema: Some(file.path().into()), ..ChoiceArgs::default() };
        let error = crate::cli::flags::message(&args.read().err().unwrap());
        assert!(error.starts_with("--json-schema `"), "{error}");
        std::fs::write(file.path(), r#"{"items": {"type": "strin"}}"#).unwrap();
        let error = crate::cli::flags::message(&args.read().err().unwrap());
        let place = format!("--json-schema `{}`: field `/items/type`: expected ", file.path().display());
        assert!(error.starts_with(&place), "{error}");
        std::fs::write(file.path(), "start: start").unwrap();
        let args = ChoiceArgs { grammar: Some(file.path().into()), ..ChoiceArgs::default() };
        let error = crate::cli::flags::message(&args.read().err().unwrap());
        let whole = format!("--grammar `{}`: expected one that can be followed, got nothing", file.path().display());
        assert!(error.starts_with(&whole), "{error}");
        // So is a fault that an answer meets.
        std::fs::write(file.path(), r#"start: "x""#).unwrap();
        let choices = args.read().unwrap();
        let later = Error::Grammar { name: "grammar".into(), field: String::new(), fault: "no more".into() };
        let error = crate::cli::flags::message(&choices.told(later));
        let whole = format!("--grammar `{}`: expected one that can be followed, got no more", file.path().display());
        assert_eq!(error, whole);
        let args = ChoiceArgs { logit_bias: vec![(1, f32::NAN)], ..ChoiceArgs::default() };
        let error = crate::cli::flags::message(&args.read().err().unwrap());
        assert!(error.starts_with("--logit-bias `1`"), "{error}");
    }
}

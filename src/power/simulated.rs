//! A trace of power states in a file, in place of a probe.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::fields::{PowerFields, read_text};
use super::{PowerState, Supply, Thermal};
use crate::error::{Error, Result};

/// Bytes of a trace's file at most.
const TRACE_BYTES_MAX: u64 = 64 << 20;

/// When a step of a trace begins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum At {
    /// With this token of the answer, the first being 0.
    Token(usize),
    /// This long after the beginning.
    Time(Duration),
}

/// A state, and when it begins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TraceStep {
    /// When it begins.
    pub at: At,
    /// The state from then on.
    pub state: PowerState,
}

/// Power states over tokens or over time; before the first step the device is on AC.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    steps: Vec<TraceStep>,
}

impl Trace {
    /// Reads a trace: one JSON object a line, with `token` or `time_s`, and what there is of `source` ("ac" or
    /// "battery"), `percent`, `saver`, `thermal` and `memory_pressure`. What a line leaves out is as on AC: nothing is
    /// taken over from the line before.
    ///
    /// Fails where a field is none of these or has a wrong value, where lines of tokens and of times are mixed, and
    /// where a line begins before the one above; the error names the line and the field. A file of more than 64 MiB is
    /// refused.
    pub fn read(file: &Path) -> Result<Trace> {
        Trace::parse(file, &read_text(file, TRACE_BYTES_MAX)?)
    }

    fn parse(file: &Path, text: &str) -> Result<Trace> {
        let mut steps: Vec<TraceStep> = Vec::new();
        for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let place = format!("line {}", at + 1);
            let value: Value =
                serde_json::from_str(line).map_err(|e| Error::damaged(file, &place, "a JSON object", e))?;
            steps.push(step(PowerFields::of(file, place, value)?, steps.last())?);
        }
        if steps.is_empty() {
            return Err(Error::damaged(file, "the file", "a JSON object a line", "no line"));
        }
        Ok(Trace { steps })
    }

    /// The steps, in their order.
    pub fn steps(&self) -> &[TraceStep] {
        &self.steps
    }

    /// Whether the trace goes by tokens, and not by time. There the dwell has no meaning.
    pub fn by_tokens(&self) -> bool {
        matches!(self.steps.first(), Some(TraceStep { at: At::Token(_), .. }))
    }

    /// The state for the token `token`, at `time`.
    pub fn state(&self, token: usize, time: Duration) -> PowerState {
        let begun = |step: &&TraceStep| match step.at {
            At::Token(at) => at <= token,
            At::Time(at) => at <= time,
        };
        self.steps.iter().take_while(begun).last().map_or(PowerState::AC, |step| step.state)
    }
}

fn step(mut fields: PowerFields<'_>, before: Option<&TraceStep>) -> Result<TraceStep> {
    let at = begin(&mut fields, before)?;
    let sources = [("ac", false), ("battery", true)];
    let source = fields.one_of("source", &sources)?;
    let percent = fields.number("percent", 0.0..=100.0)?;
    let supply = match (source, percent) {
        (Some(false) | None, None) => Supply::Ac,
        (Some(false) | None, Some(percent)) => {
            return Err(fields.wrong("percent", "\"source\": \"battery\" beside it", percent));
        }
        (Some(true), percent) => Supply::Battery { percent },
    };
    let state = PowerState {
        supply,
        saver: fields.flag("saver")?.unwrap_or(false),
        thermal: fields.one_of("thermal", &Thermal::NAMES)?.unwrap_or_default(),
        memory_pressure: fields.number("memory_pressure", 0.0..=100.0)?.unwrap_or(0.0),
    };
    fields.end()?;
    Ok(TraceStep { at, state })
}

/// When a step begins: not before the one above it, and by the same clock.
fn begin(fields: &mut PowerFields<'_>, before: Option<&TraceStep>) -> Result<At> {
    let before = before.map(|step| step.at);
    let token = fields.take("token");
    let time = fields.number("time_s", 0.0..=1e9)?;
    match (token, time, before) {
        (Some(_), Some(time), _) => Err(fields.wrong("time_s", "`token` or `time_s`, not both", time)),
        (None, None, _) => Err(fields.wrong("token", "a number, or one in `time_s`", "neither")),
        (Some(token), None, Some(At::Time(_))) => Err(fields.wrong("token", "`time_s`, as above", token)),
        (None, Some(time), Some(At::Token(_))) => Err(fields.wrong("time_s", "`token`, as above", time)),
        (Some(value), None, before) => {
            let token = value.as_u64().and_then(|token| usize::try_from(token).ok());
            let token = token.ok_or_else(|| fields.wrong("token", "a whole number from 0 on", &value))?;
            match before {
                Some(At::Token(least)) if token < least => {
                    Err(fields.wrong("token", format!("{least} or more, as above"), token))
                }
                _ => Ok(At::Token(token)),
            }
        }
        (None, Some(time), before) => match (Duration::from_secs_f32(time), before) {
            (at, Some(At::Time(least))) if at < least => {
                Err(fields.wrong("time_s", format!("{} or more, as above", least.as_secs_f32()), time))
            }
            (at, _) => Ok(At::Time(at)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Trace> {
        Trace::parse(Path::new("trace.jsonl"), text)
    }

    #[test]
    fn a_step_counts_from_its_token_or_its_time_on() {
        let text =
            "{\"token\": 2, \"source\": \"battery\", \"percent\": 15}\n\n{\"token\": 5, \"thermal\": \"critical\"}\n";
        let trace = parse(text).unwrap();
        let battery = PowerState { supply: Supply::Battery { percent: Some(15.0) }, ..PowerState::AC };
        let critical = PowerState { thermal: Thermal::Critical, ..PowerState::AC };
        let states = [0, 1, 2, 4, 5, 99].map(|token| trace.state(token, Duration::ZERO));
        assert_eq!(states, [PowerState::AC, PowerState::AC, battery, battery, critical, critical]);
        assert!(trace.by_tokens());

        let trace = parse(r#"{"time_s": 1.5, "saver": true, "memory_pressure": 12}"#).unwrap();
        let saver = PowerState { saver: true, memory_pressure: 12.0, ..PowerState::AC };
        let states = [0, 1499, 1500].map(|ms| trace.state(7, Duration::from_millis(ms)));
        assert_eq!(states, [PowerState::AC, PowerState::AC, saver]);
        assert!(!trace.by_tokens());
    }

    #[test]
    fn an_error_names_file_line_and_field() {
        for (text, words) in [
            ("", "the file: expected a JSON object a line, got no line"),
            ("{\"token\": 0}\n{", "line 2: expected a JSON object, got "),
            ("\n[1]", "line 2: expected a table of fields, got [1]"),
            ("{}", "line 1, field `token`: expected a number, or one in `time_s`, got neither"),
            (r#"{"token": -1}"#, "line 1, field `token`: expected a whole number from 0 on, got -1"),
            (r#"{"token": 1, "time_s": 1}"#, "line 1, field `time_s`: expected `token` or `time_s`, not both"),
            ("{\"token\": 9}\n{\"token\": 8}", "line 2, field `token`: expected 9 or more, as above, got 8"),
            ("{\"time_s\": 9}\n{\"time_s\": 8}", "line 2, field `time_s`: expected 9 or more, as above, got 8"),
            ("{\"token\": 9}\n{\"time_s\": 9}", "line 2, field `time_s`: expected `token`, as above, got 9"),
            ("{\"time_s\": 9}\n{\"token\": 9}", "line 2, field `token`: expected `time_s`, as above, got 9"),
            (r#"{"token": 0, "source": "sun"}"#, "line 1, field `source`: expected \"ac\", \"battery\", got \"sun\""),
            (
                r#"{"token": 0, "source": "battery", "percent": 120}"#,
                "line 1, field `percent`: expected 0 to 100, got 120",
            ),
            (r#"{"token": 0, "percent": 20}"#, "line 1, field `percent`: expected \"source\": \"battery\""),
            (r#"{"token": 0, "saver": 1}"#, "line 1, field `saver`: expected true or false, got 1"),
            (r#"{"token": 0, "thermal": "hot"}"#, "line 1, field `thermal`: expected \"nominal\", \"fair\", "),
            (r#"{"token": 0, "fan": 3}"#, "line 1, field `fan`: expected only the fields token, time_s, source, "),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with("`trace.jsonl` is damaged: ") && error.contains(words), "{text}: {error}");
        }
    }
}

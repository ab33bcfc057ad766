//! `edge-run bench`: tokens a second, what the device reads for them, and what energy they take.

mod args;
mod table;

pub use args::BenchArgs;

use std::io::IsTerminal;
use std::path::Path;

use super::exit::Exit;
use super::output::{note, print_json_line, print_line};
use super::{Done, devices, load, settings, stop, terminal};
use edge_run::internals::bench::{self, EnergyMeter, Measured, Profile, Synthetic, Test, TestKind};
use edge_run::internals::engine::{DeviceInfo, DeviceKind};
use edge_run::internals::error::{Error, Result};
use edge_run::internals::format::{TokenBytes, layout};
use edge_run::internals::model::{Model, Sequence, WeightSource};
use edge_run::internals::precision::{Depth, Precision, PrecisionPlan, PromptBits};
use table::{BenchRow, ProfileRow, Table};

/// Seed of a synthetic model's weights.
const SEED: u64 = 1;

/// Measures and prints, row by row.
pub fn run(args: &BenchArgs) -> Done {
    let tests = tests(args)?;
    let (name, source) = source(args)?;
    let (shape, routed) = (source.shape(), source.thresholds().is_some());
    let longest = tests.iter().map(|test| test.tokens).max().unwrap_or(0);
    let context = args.depth.saturating_add(longest);
    if context > shape.max_context {
        let expected = format!("at most {} tokens, which this model was trained for", shape.max_context);
        return Err(Error::argument("--depth with --n-prompt or --n-gen", expected, context));
    }
    let plans = plans(&args.bits, routed, args.vs_uniform)?;
    let size_bytes = layout::total_bytes(shape, &source.spec(), source.group_size(), routed);
    stop::watch();
    let mut engine = devices::open(&args.model)?;
    if args.profile {
        check_timestamps(engine.info())?;
    }
    let copy_bandwidth = bench::copy_bandwidth(engine.as_mut())?;
    note(format_args!("{}: copies {:.1} GB/s", engine.info().name, copy_bandwidth / 1e9));
    let mut meter = EnergyMeter::of(engine.info(), Path::new("/"));
    if let (None, Some(file)) = (meter.source(), meter.unreadable()) {
        note(format_args!("energy is not told: `{}` cannot be read", file.display()));
    }
    let model = load::load_onto(&args.model, engine, source.as_ref(), context, args.sequences)?;
    if args.synthetic.is_some() && plans.iter().any(|plan| matches!(plan.precision, Precision::Routed(_))) {
        bench::find_thresholds(&model, &args.bits)?;
    }
    let subject = BenchSubject { name, size_bytes, copy_bandwidth, repetitions: args.repetitions };
    let profiles = print_rows(&model, &subject, (&plans, &tests), &mut meter, args)?;
    print_profiles(&profiles, args)?;
    Ok(Exit::Done)
}

/// What all rows have in common, beside the model.
struct BenchSubject {
    name: String,
    size_bytes: u64,
    copy_bandwidth: f64,
    repetitions: u32,
}

/// Measures every test under every plan and prints its row at once; the profiles, where they are asked for.
fn print_rows(
    model: &Model,
    subject: &BenchSubject,
    (plans, tests): (&[PrecisionPlan], &[Test]),
    meter: &mut EnergyMeter,
    args: &BenchArgs,
) -> Result<Vec<ProfileRow>> {
    let mut table = Table::new(args.output);
    let mut profiles = Vec::new();
    // Tokens a second of the uniform plan before, by test: what the routed one after it is compared with.
    let mut uniform: Vec<Option<f64>> = vec![None; tests.len()];
    for plan in plans {
        let mut sequence = bench::filled(model, plan, args.depth)?;
        for (test, uniform) in tests.iter().zip(&mut uniform) {
            sequence.set_prompt_bits(prompt_bits(test, args));
            let measured = bench::measure(&mut sequence, test, args.repetitions, meter)?;
            let rate = measured.tokens_per_second.mean;
            let mut row = row(model, subject, plan, test, &measured);
            if matches!(sequence.prompt_bits(), PromptBits::Deepest) {
                row.depths = "uniform";
            }
            if args.vs_uniform && matches!(plan.precision, Precision::Routed(_)) {
                row.routing_cost = uniform.take().map(|uniform| 1.0 - rate / uniform);
            } else {
                *uniform = Some(rate);
            }
            print_row(&table.row(&row), args)?;
            if args.profile {
                let profile = bench::profile(&mut sequence, test, args.repetitions)?;
                profiles.extend(profile_rows(&row, &profile));
            }
        }
        if let (2.., Some(test)) = (args.sequences, tests.iter().find(|test| test.kind == TestKind::Generation)) {
            let row = row_of_several(model, subject, plan, (sequence, test), meter, args)?;
            print_row(&table.row(&row), args)?;
        }
    }
    Ok(profiles)
}

/// The row of a test in which as many sequences as are asked for generate beside the one that is given.
fn row_of_several(
    model: &Model,
    subject: &BenchSubject,
    plan: &PrecisionPlan,
    (first, test): (Sequence, &Test),
    meter: &mut EnergyMeter,
    args: &BenchArgs,
) -> Result<BenchRow> {
    let others = (1..args.sequences).map(|_| bench::filled(model, plan, args.depth));
    let mut sequences = std::iter::once(Ok(first)).chain(others).collect::<Result<Vec<_>>>()?;
    let measured = bench::measure_together(&mut sequences, test, args.repetitions, meter)?;
    let mut row = row(model, subject, plan, test, &measured);
    row.test = format!("{test} x{}", args.sequences);
    // They share what they read, as the tokens of a prompt do.
    (row.bytes_per_token, row.copy_share) = (None, None);
    (row.body_bytes_per_token, row.head_bytes_per_token, row.embedding_bytes_per_token) = (None, None, None);
    Ok(row)
}

/// What is read for the prompts of a test: a token to begin a generation with is none.
fn prompt_bits(test: &Test, args: &BenchArgs) -> PromptBits {
    match test.kind {
        TestKind::Prompt => args.prompt_bits,
        TestKind::Generation => PromptBits::Plan,
    }
}

fn print_profiles(profiles: &[ProfileRow], args: &BenchArgs) -> Result<()> {
    let mut table = Table::new(args.output);
    profiles.iter().for_each(|row| table.fit(row));
    if !profiles.is_empty() && args.output != args::Format::Json {
        print_line("")?;
    }
    profiles.iter().try_for_each(|row| print_row(&table.row(row), args))
}

/// Prints a line of the output. Names in JSON and CSV are data, which a terminal alone must not obey.
fn print_row(line: &str, args: &BenchArgs) -> Result<()> {
    match args.output {
        args::Format::Json => print_json_line(line).map(|_| ()),
        args::Format::Csv if std::io::stdout().is_terminal() => print_line(terminal::in_lines(line)),
        _ => print_line(line),
    }
}

fn row(model: &Model, subject: &BenchSubject, plan: &PrecisionPlan, test: &Test, measured: &Measured) -> BenchRow {
    let (shape, device) = (model.shape(), model.device());
    let routed = matches!(plan.precision, Precision::Routed(_));
    let bits_read = measured.read.mean();
    let bits = (bits_read, model.outer_depth(plan));
    let bytes = bench::bytes_per_token(
        (shape, model.spec()),
        model.group_size(),
        bits,
        routed,
        (model.cache_type(), test.mean_context()),
    );
    let parts = TokenBytes::of((shape, model.spec()), model.group_size(), bits, routed);
    let parts = (test.kind == TestKind::Generation).then_some(parts);
    // A prompt's tokens share what they read, so that there is no such number for one of them.
    let bytes_per_token = (test.kind == TestKind::Generation).then_some(bytes);
    let rate = measured.tokens_per_second;
    BenchRow {
        r#type: "bench",
        model: subject.name.clone(),
        size_bytes: subject.size_bytes,
        params: shape.linear_params() + shape.embedding_params(),
        device: device.name.clone(),
        backend: device.backend.clone(),
        driver: device.driver.clone(),
        activations: if model.int8_activations() { "int8" } else { "f32" },
        cooperative_matrix: model.multiplies_matrices(),
        cache_type: model.cache_type().to_string(),
        depths: if routed { "routed" } else { "uniform" },
        bits_asked: plan.bits(),
        bits_read,
        test: test.to_string(),
        repetitions: subject.repetitions,
        tokens_per_second: rate.mean,
        tokens_per_second_stddev: rate.stddev,
        routing_cost: None,
        bytes_per_token,
        body_bytes_per_token: parts.map(|parts| parts.body),
        head_bytes_per_token: parts.map(|parts| parts.head),
        embedding_bytes_per_token: parts.map(|parts| parts.embedding),
        copy_bytes_per_second: subject.copy_bandwidth,
        copy_share: bytes_per_token.map(|bytes| bytes * rate.mean / subject.copy_bandwidth),
        joules_per_token: measured.energy.as_ref().map(|(joules, _)| *joules),
        energy_source: measured.energy.as_ref().map(|(_, source)| source.clone()),
        memory_bytes: model.allocated_bytes(),
        version: env!("CARGO_PKG_VERSION"),
    }
}

/// A row for each kernel, and one for the gaps.
fn profile_rows(of: &BenchRow, profile: &Profile) -> Vec<ProfileRow> {
    let all = profile.total_us();
    let row = |share: &bench::KernelShare| ProfileRow {
        r#type: "profile",
        test: of.test.clone(),
        depths: of.depths,
        bits_asked: of.bits_asked,
        kernel: share.kernel,
        launches: share.launches,
        total_us: share.total_us,
        mean_us: share.total_us / share.launches.max(1) as f64,
        share: share.total_us / all.max(f64::MIN_POSITIVE),
    };
    profile.kernels.iter().chain([&profile.gaps]).map(row).collect()
}

/// The tests asked for, prompts first.
fn tests(args: &BenchArgs) -> Result<Vec<Test>> {
    let of_kind = |kind, lengths: &[u32]| {
        let asked = lengths.iter().filter(|tokens| **tokens > 0);
        Vec::from_iter(asked.map(|tokens| Test { kind, tokens: *tokens, depth: args.depth }))
    };
    let tests = [of_kind(TestKind::Prompt, &args.n_prompt), of_kind(TestKind::Generation, &args.n_gen)].concat();
    if tests.is_empty() {
        return Err(Error::argument("--n-prompt and --n-gen", "tokens for one of them", "0 for both"));
    }
    Ok(tests)
}

/// What is measured, with its name: a model folder or a synthetic model.
fn source(args: &BenchArgs) -> Result<(String, Box<dyn WeightSource>)> {
    if let Some(shape) = &args.synthetic {
        let source = Synthetic::parse(shape, SEED)?;
        let source = match args.group_size {
            Some(group) => source.in_groups(group)?,
            None => source,
        };
        return Ok((format!("{shape} (synthetic)"), Box::new(source)));
    }
    let folder = settings::open_model(&args.model)?;
    Ok((folder.manifest().source.name.clone(), Box::new(folder)))
}

/// The plans to measure: one for each number of bits, and for `vs_uniform` and whole depths two, first the uniform one.
///
/// Beside a uniform plan, routers run even at 2 and 8 bits, where they have nothing to choose: what they cost alone.
fn plans(bits: &[f32], has_routers: bool, vs_uniform: bool) -> Result<Vec<PrecisionPlan>> {
    if vs_uniform && !has_routers {
        return Err(Error::argument("--vs-uniform", "a model with routers", "a model without routers"));
    }
    let mut plans = Vec::new();
    for bits in bits {
        let plan = settings::plan_for_bits(*bits, has_routers)?;
        match Depth::of_bits(*bits) {
            Some(depth) if vs_uniform => {
                plans.push(PrecisionPlan::uniform(depth, "--vs-uniform"));
                plans.push(PrecisionPlan { precision: Precision::Routed(*bits), ..plan });
            }
            _ => plans.push(plan),
        }
    }
    Ok(plans)
}

/// Refuses a device that cannot time its kernels, before anything is loaded.
fn check_timestamps(device: &DeviceInfo) -> Result<()> {
    let has = device.features.iter().any(|(name, has)| name == "timestamps" && *has);
    if has || device.kind == DeviceKind::Processor {
        return Ok(());
    }
    let expected = "a device with timestamps, which `edge-run devices` tells";
    Err(Error::argument("--profile", expected, format!("{}, which has none", device.name)))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Cli, CliCommand};

    fn parse(line: &str) -> std::result::Result<BenchArgs, clap::Error> {
        let words = ["edge-run", "bench"].into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(words)?.command {
            Some(CliCommand::Bench(args)) => Ok(args),
            other => panic!("{other:?} is not bench"),
        }
    }

    #[test]
    fn the_names_of_llama_bench_are_understood() {
        let args = parse("-m dir -p 64 -n 0 -d 4096 -r 3 --bits 2,4,8,3.4 -o csv").unwrap();
        assert_eq!((&args.n_prompt[..], &args.n_gen[..]), (&[64][..], &[0][..]));
        assert_eq!((args.depth, args.repetitions), (4096, 3));
        assert_eq!((&args.bits[..], args.output), (&[2.0, 4.0, 8.0, 3.4][..], args::Format::Csv));
        assert_eq!(tests(&args).unwrap().iter().map(Test::to_string).collect::<Vec<_>>(), ["pp64 @ d4096"]);
        let several = tests(&parse("-p 8,512 -n 16,0,32").unwrap()).unwrap();
        assert_eq!(several.iter().map(Test::to_string).collect::<Vec<_>>(), ["pp8", "pp512", "tg16", "tg32"]);
        let prompts = |line: &str| {
            let args = parse(line).unwrap();
            Vec::from_iter(tests(&args).unwrap().iter().map(|test| prompt_bits(test, &args)))
        };
        assert_eq!(prompts("--bits 4"), [PromptBits::Plan; 2]);
        assert_eq!(prompts("--bits 4 --prompt-bits deepest"), [PromptBits::Deepest, PromptBits::Plan]);
        for line in ["-r 0", "-o xml", "--bits 9", "-m dir --synthetic llama2-7b", "--vs-uniform --prompt-bits deepest"]
        {
            assert!(parse(line).is_err(), "{line}");
        }
        let message = tests(&parse("-p 0 -n 0").unwrap()).unwrap_err().to_string();
        assert_eq!(message, "--n-prompt and --n-gen: expected tokens for one of them, got 0 for both");
    }

    #[test]
    fn uniform_depths_stand_before_the_routed_ones_they_are_compared_with() {
        use Precision::{Routed, Uniform};
        let of = |bits: &[f32], has_routers, vs_uniform| {
            plans(bits, has_routers, vs_uniform).map(|plans| Vec::from_iter(plans.iter().map(|plan| plan.precision)))
        };
        let [two, four, _, eight] = Depth::ALL;
        assert_eq!(of(&[8.0, 4.0, 3.4], true, false).unwrap(), [Uniform(eight), Routed(4.0), Routed(3.4)]);
        assert_eq!(
            of(&[2.0, 4.0, 3.4], true, true).unwrap(),
            [Uniform(two), Routed(2.0), Uniform(four), Routed(4.0), Routed(3.4)]
        );
        assert_eq!(of(&[4.0], false, false).unwrap(), [Uniform(four)]);
        let message = of(&[3.4], false, false).unwrap_err().to_string();
        assert_eq!(message, "--bits: expected 2, 4, 6 or 8 for a model without routers, got 3.4");
        let message = of(&[4.0], false, true).unwrap_err().to_string();
        assert_eq!(message, "--vs-uniform: expected a model with routers, got a model without routers");
    }

    #[test]
    fn a_device_without_timestamps_is_told_before_it_is_asked() {
        let device = |kind, has| DeviceInfo {
            index: Some(0),
            name: "A device".into(),
            kind,
            backend: "Vulkan".into(),
            driver: String::new(),
            features: vec![("timestamps".into(), has)],
        };
        assert!(check_timestamps(&device(DeviceKind::DiscreteGpu, true)).is_ok());
        assert!(check_timestamps(&device(DeviceKind::Processor, false)).is_ok());
        let message = check_timestamps(&device(DeviceKind::DiscreteGpu, false)).unwrap_err().to_string();
        assert!(message.starts_with("--profile: expected a device with timestamps"), "{message}");
    }
}

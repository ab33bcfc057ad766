//! Benchmarks end to end: synthetic models on both engines, what is measured of them, and how it is printed.

use crate::gpu;
use assert_cmd::Command;
use edge_run::internals::bench::{
    EnergyMeter, Stats, Synthetic, Test, TestKind, copy_bandwidth, filled, find_thresholds, measure, measure_together,
    profile,
};
use edge_run::internals::cpu;
use edge_run::internals::engine::Engine;
use edge_run::internals::gpu::GpuOptions;
use edge_run::internals::kernels::copy;
use edge_run::internals::model::{CacheOptions, Model, Sequence};
use edge_run::internals::precision::Precision;
use edge_run::internals::recording::Recording;
use edge_run::{Depth, PrecisionPlan};
use serde_json::Value;

const SHAPE: &str = "128x256x2x4x2x300";
const CONTEXT: u32 = 300;

fn engines() -> Vec<Box<dyn Engine>> {
    let gpu = gpu::gpu().map(|_| edge_run::internals::gpu::open(0, GpuOptions::default()).unwrap());
    [cpu::open()].into_iter().chain(gpu).collect()
}

fn model(engine: Box<dyn Engine>) -> Model {
    Model::load(&Synthetic::parse(SHAPE, 7).unwrap(), engine, CONTEXT, &mut |_, _| ()).unwrap()
}

fn plan(precision: Precision) -> PrecisionPlan {
    PrecisionPlan { precision, depth_max: Depth::FULL, reason: "test".into() }
}

#[test]
fn a_synthetic_model_computes_the_same_on_every_engine() {
    let ids = [5, 17, 42, 299, 0];
    for depth in Depth::ALL {
        let logits: Vec<Vec<f32>> = engines()
            .into_iter()
            .map(|engine| {
                let mut sequence = model(engine).sequence(&plan(Precision::Uniform(depth))).unwrap();
                sequence.next_logits(&ids).unwrap().logits
            })
            .collect();
        let size = Stats::of(&logits[0].iter().map(|logit| f64::from(*logit)).collect::<Vec<_>>()).stddev;
        assert!((0.3..3.0).contains(&size), "logits of order one: {size}");
        for other in &logits[1..] {
            // The cache's f16 and the order of sums; logits are of order one.
            assert!(logits[0].iter().zip(other).all(|(a, b)| (a - b).abs() < 0.02), "{depth:?}");
        }
    }
}

#[test]
fn weights_depend_on_the_seed_alone() {
    let logits = |seed| {
        let source = Synthetic::parse(SHAPE, seed).unwrap();
        let model = Model::load(&source, cpu::open(), CONTEXT, &mut |_, _| ()).unwrap();
        let mut sequence = model.sequence(&plan(Precision::Uniform(Depth::FULL))).unwrap();
        sequence.next_logits(&[1, 2]).unwrap().logits
    };
    assert_eq!(logits(7), logits(7));
    assert_ne!(logits(7), logits(8));
}

#[test]
fn random_routers_read_about_the_bits_asked_for() {
    for engine in engines() {
        let model = model(engine);
        find_thresholds(&model, &[6.0, 3.4, 8.0, 3.4]).unwrap();
        let rows: Vec<f32> = model.thresholds().unwrap().rows().iter().map(|row| row.bits).collect();
        assert_eq!(rows, [2.0, 3.4, 6.0, 8.0]);
        let test = Test { kind: TestKind::Prompt, tokens: 256, depth: 0 };
        for (bits, most) in [(2.0, 0.0), (3.4, 0.5), (6.0, 0.5), (8.0, 0.0)] {
            let mut sequence = filled(&model, &plan(Precision::Routed(bits)), 0).unwrap();
            let read = measure(&mut sequence, &test, 1, &mut EnergyMeter::none()).unwrap().read.mean();
            // Other tokens than those of the search, so within the spread of a small model's routers.
            assert!((read - bits).abs() <= most, "{read} bits read of {bits}");
        }
    }
}

#[test]
fn tests_count_their_tokens_behind_the_context() {
    for engine in engines() {
        let mut sequence = filled(&model(engine), &plan(Precision::Uniform(Depth::ALL[1])), 280).unwrap();
        assert_eq!(sequence.tokens().len(), 280);
        for kind in [TestKind::Prompt, TestKind::Generation] {
            let test = Test { kind, tokens: 20, depth: 280 };
            let measured = measure(&mut sequence, &test, 3, &mut EnergyMeter::none()).unwrap();
            assert_eq!((measured.read.tokens(), measured.read.mean()), (60, 4.0));
            assert!(measured.tokens_per_second.mean > 0.0 && measured.tokens_per_second.stddev.is_finite());
            let beyond = Test { depth: 281, ..test };
            let refused = measure(&mut sequence, &beyond, 1, &mut EnergyMeter::none());
            assert!(refused.is_err() && measured.energy.is_none(), "it leaves the context");
        }
    }
}

#[test]
fn sequences_beside_each_other_count_all_their_tokens() {
    for engine in engines() {
        let cache = CacheOptions { sequences: 3, ..CacheOptions::from(CONTEXT) };
        let model = Model::load(&Synthetic::parse(SHAPE, 7).unwrap(), engine, cache, &mut |_, _| ()).unwrap();
        let open = |_| filled(&model, &plan(Precision::Uniform(Depth::ALL[1])), 10).unwrap();
        let mut sequences: Vec<Sequence> = (0..3).map(open).collect();
        let test = Test { kind: TestKind::Generation, tokens: 5, depth: 10 };
        let measured = measure_together(&mut sequences, &test, 2, &mut EnergyMeter::none()).unwrap();
        assert_eq!((measured.read.tokens(), measured.read.mean()), (30, 4.0));
        assert!(measured.tokens_per_second.mean > 0.0);
        assert!(sequences.iter().all(|sequence| sequence.tokens().len() == 15));
    }
}

#[test]
fn a_profile_has_every_kernel_and_takes_time() {
    for engine in engines() {
        let timed = engine.info().index.is_none() || engine.info().features.contains(&("timestamps".into(), true));
        let model = model(engine);
        let mut sequence = filled(&model, &plan(Precision::Routed(4.0)), 0).unwrap();
        let test = Test { kind: TestKind::Generation, tokens: 8, depth: 0 };
        let profile = profile(&mut sequence, &test, 2);
        if !timed {
            assert!(profile.unwrap_err().to_string().contains("no timestamps"));
            continue;
        }
        let profile = profile.unwrap();
        let of = |kernel| profile.kernels.iter().find(|share| share.kernel == kernel).map_or(0, |share| share.launches);
        // Four sites in two layers. Projections tell routers, of which the first two have a kernel of their own; others
        // are computed with the norms, but for the last, which no router looks at.
        let projections = ["project_qkv", "project_residual", "project_gate"].map(of).iter().sum();
        let routers = of("route") + of("route_vector");
        assert_eq!((projections, routers), if model.int8_activations() { (8, 1) } else { (0, 3) });
        assert_eq!(of("sample_token"), 1, "the step is one that generation runs");
        assert!(profile.kernels.iter().map(|share| share.total_us).sum::<f64>() > 0.0);
        let launches: usize = profile.kernels.iter().map(|share| share.launches).sum();
        assert_eq!(profile.gaps.launches, launches - 1);
        assert!(profile.gaps.total_us >= 0.0);
    }
}

#[test]
fn more_dispatches_than_a_query_set_holds_are_timed() {
    for mut engine in engines() {
        let buffer = |engine: &mut dyn Engine| engine.create("test", 64).unwrap().all();
        let (x, y) = (buffer(engine.as_mut()), buffer(engine.as_mut()));
        let mut recording = Recording::new();
        (0..2500).for_each(|_| copy::record(&mut recording, x, y));
        let mut prepared = engine.prepare(recording).unwrap();
        if let Ok(times) = engine.profile(&mut prepared) {
            assert_eq!(times.len(), 2500);
            assert!(times.iter().all(|time| time.kernel == "copy" && time.start <= time.end));
            assert!(times.windows(2).all(|pair| pair[0].start <= pair[1].start));
        }
    }
}

#[test]
fn a_copy_copies_and_has_a_bandwidth() {
    for mut engine in engines() {
        // More elements than invocations, and no whole number of workgroups.
        let words: Vec<u32> = (0..4 * ((256 << 14) + 5)).collect();
        let bytes: &[u8] = bytemuck::cast_slice(&words);
        let x = engine.create("x", bytes.len() as u64).unwrap();
        let y = engine.create("y", bytes.len() as u64).unwrap();
        engine.upload(x.all(), bytes).unwrap();
        let mut recording = Recording::new();
        // The last element stays, and so tells that the comparison can fail.
        let part = bytes.len() as u64 - 16;
        copy::record(&mut recording, x.span(0, part), y.span(0, part));
        recording.read_back(y.all());
        let mut prepared = engine.prepare(recording).unwrap();
        let copied = engine.run(&mut prepared).unwrap().remove(0);
        assert!(copied[..part as usize] == bytes[..part as usize]);
        assert_eq!(copied[part as usize..], [0; 16]);

        drop(prepared);
        engine.destroy(x);
        engine.destroy(y);
        engine.wait().unwrap();
        let before = engine.allocated_bytes();
        let bandwidth = copy_bandwidth(engine.as_mut()).unwrap();
        engine.wait().unwrap();
        assert!(bandwidth.is_finite() && bandwidth > 0.0);
        // The least of all read-backs is kept for the next one.
        assert!(engine.allocated_bytes() <= before + 256, "the buffers are given back");
    }
}

/// `edge-run bench` on a tiny synthetic model and the CPU engine.
fn bench(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edge-run"));
    command.args(["bench", "--device", "cpu", "--synthetic", SHAPE, "-p", "8", "-n", "4", "-r", "2"]).args(args);
    command
}

fn stdout(args: &[&str]) -> String {
    String::from_utf8(bench(args).assert().success().get_output().stdout.clone()).unwrap()
}

#[test]
fn json_has_an_object_for_each_test_and_each_kernel() {
    let text = stdout(&["--bits", "4,3.4,8", "-d", "10", "--vs-uniform", "--profile", "-o", "json"]);
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (rows, profile): (Vec<&Value>, Vec<&Value>) = lines.iter().partition(|line| line["type"] == "bench");
    let told: Vec<(&str, f64, &str)> = rows
        .iter()
        .map(|row| {
            (row["depths"].as_str().unwrap(), row["bits_asked"].as_f64().unwrap(), row["test"].as_str().unwrap())
        })
        .collect();
    let plans = [("uniform", 4.0), ("routed", 4.0), ("routed", 3.4), ("uniform", 8.0), ("routed", 8.0)];
    let expected: Vec<(&str, f64, &str)> =
        plans.iter().flat_map(|(depths, bits)| ["pp8 @ d10", "tg4 @ d10"].map(|test| (*depths, *bits, test))).collect();
    assert_eq!(told, expected);
    for row in &rows {
        assert!(row["tokens_per_second"].as_f64().unwrap() > 0.0, "{row}");
        let compared = row["depths"] == "routed" && row["bits_asked"] != 3.4;
        assert_eq!(row["routing_cost"].is_number(), compared, "{row}");
        let generates = row["test"].as_str().unwrap().starts_with("tg");
        assert_eq!(row["bytes_per_token"].is_number() && row["copy_share"].is_number(), generates, "{row}");
        assert_eq!(row["joules_per_token"].is_number(), row["energy_source"].is_string(), "{row}");
        assert!((2.0..=8.0).contains(&row["bits_read"].as_f64().unwrap()), "{row}");
    }
    let kernels = |depths| profile.iter().filter(move |row| row["depths"] == depths).map(|row| &row["kernel"]);
    assert!(kernels("routed").any(|kernel| kernel == "route") && kernels("uniform").all(|kernel| kernel != "route"));
    let share: f64 = profile.iter().map(|row| row["share"].as_f64().unwrap()).sum();
    assert!((share - rows.len() as f64).abs() < 1e-6, "the shares of each row's profile add up to 1: {share}");
}

#[test]
fn csv_and_markdown_are_tables() {
    let csv = stdout(&["--bits", "2,4", "-o", "csv"]);
    let lines: Vec<&str> = csv.lines().collect();
    assert!(lines.len() == 5 && lines[0].starts_with("type,model,size_bytes,params,device,"), "{csv}");
    let several = stdout(&["--bits", "4", "--sequences", "3", "-o", "csv"]);
    assert!(several.lines().count() == 4 && several.lines().last().unwrap().contains(",tg4 x3,"), "{several}");
    let markdown = stdout(&["--bits", "2,4"]);
    let lines: Vec<&str> = markdown.lines().collect();
    assert!(lines.len() == 6 && lines[1].starts_with("| --"), "{markdown}");
    let columns = |line: &str| line.matches('|').count();
    assert!(lines.iter().all(|line| columns(line) == columns(lines[0])), "{markdown}");
}

#[test]
fn what_cannot_be_measured_is_told_by_its_flag() {
    for (args, words) in [
        (&["-d", "200000"][..], "--depth with --n-prompt or --n-gen: expected at most 131072 tokens"),
        (&["--device", "nowhere"], "no device `nowhere`"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_edge-run"));
        let output = command.args(["bench", "--synthetic", SHAPE]).args(args).assert().failure().get_output().clone();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(errors.starts_with("error: ") && errors.contains(words), "{errors}");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_edge-run"));
    let output = command.args(["bench", "--synthetic", "7b"]).assert().code(2).get_output().clone();
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("error: --synthetic: expected llama2-7b, "));
}

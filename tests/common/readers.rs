//! Everything that is read from a file of unknown origin, as functions of bytes: what the fuzz targets call, and what
//! replays their inputs.
//!
//! A file that can't be read is an error. A panic, and memory out of proportion to the file, is a fault.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use edge_run::internals::cpu;
use edge_run::internals::format::{
    CHAT_TEMPLATE_FILE, GENERATION_FILE, MANIFEST_FILE, ModelFolder, Pack, SavedCells, SavedSession,
    SavedSessionWriter, SessionFacts, TOKENIZER_FILE, layout,
};
use edge_run::internals::model::Model;
use edge_run::internals::power::{At, Governor, Policy, PowerConfig, PowerState, Trace};
use edge_run::internals::precision::SLICES;
use edge_run::internals::quantize::{Source, SourceTensor};
use edge_run::internals::text::{ChatTemplate, Detokenizer, Message, Role, TextFiles, TextModel};
use edge_run::{PrecisionPlan, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::counting::Counting;

/// What parts the files of an input of several: ASCII's file separator.
pub const SEPARATOR: u8 = 0x1c;
/// Data that a safetensors file of an input is given, at most, after its header.
const DATA_BYTES_MAX: u64 = 1 << 20;
/// Zeros after the header of a GGUF file, for its tensors to lie in.
const GGUF_DATA_BYTES: usize = 1 << 18;
/// Memory that a reader may take besides its share of the file: a compiled expression alone can take ten megabytes, and
/// the steps that a template may take make values of up to 80.
const FREE_BYTES: usize = 96 << 20;

/// A kind of input, and what reads it.
pub struct Target {
    /// Its name: that of the fuzz target, and of the folders of its seeds and regressions.
    pub name: &'static str,
    /// Bytes of memory that reading may take for each byte of the files.
    factor: usize,
    read: fn(&mut Case, &[u8]) -> Result<()>,
}

/// Every kind of input.
pub const TARGETS: [Target; 8] = [
    // A value of one byte is kept in 32 bytes, in a list that doubles.
    Target { name: "gguf", factor: 256, read: gguf },
    Target { name: "huggingface", factor: 256, read: huggingface },
    Target { name: "folder", factor: 256, read: folder },
    Target { name: "pack", factor: 64, read: pack },
    Target { name: "session", factor: 256, read: session },
    // A character of a vocabulary can be a node of a tree of maps.
    Target { name: "tokenizer", factor: 1024, read: tokenizer },
    // A template can say what is to be written many times over, as often as its steps allow.
    Target { name: "template", factor: 1024, read: template },
    Target { name: "power", factor: 256, read: power },
];

impl Target {
    /// Reads `input`, whose files are put into the folder `dir`. Panics where reading does, or takes too much memory.
    pub fn run(&self, allocator: &Counting, dir: &Path, input: &[u8]) -> Result<()> {
        let mut case = Case { dir: dir.to_path_buf(), bytes: input.len() };
        let (outcome, peak) = allocator.peak_of(|| (self.read)(&mut case, input));
        let most = FREE_BYTES + self.factor * case.bytes;
        assert!(peak <= most, "{}: {peak} bytes of memory for files of {}, at most {most}", self.name, case.bytes);
        // The words of an error are made of what is in the file, too.
        if let Err(fault) = &outcome {
            assert!(!fault.to_string().is_empty());
        }
        outcome
    }
}

/// The files of an input.
struct Case {
    dir: PathBuf,
    /// Of all files.
    bytes: usize,
}

impl Case {
    /// Puts a file into the folder, or takes away the one that another input left there.
    fn put(&mut self, name: &str, bytes: Option<&[u8]>, zeros: u64) {
        let path = self.dir.join(name);
        let Some(bytes) = bytes else {
            let _ = std::fs::remove_file(path);
            return;
        };
        let mut file = File::create(path).expect("the folder of the input can be written to");
        file.write_all(bytes).expect("there is room for the input");
        file.set_len(bytes.len() as u64 + zeros).expect("there is room for the input");
        self.bytes += bytes.len() + zeros as usize;
    }

    /// The same for a text, of which an empty one is none.
    fn put_text(&mut self, name: &str, text: &[u8]) {
        self.put(name, (!text.is_empty()).then_some(text), 0);
    }

    /// The same for a safetensors file: what begins with a brace is its header, and gets its length and its data.
    fn put_safetensors(&mut self, name: &str, part: &[u8]) -> Option<(Vec<u8>, u64)> {
        if part.first() != Some(&b'{') {
            self.put_text(name, part);
            return None;
        }
        let header = [(part.len() as u64).to_le_bytes().as_slice(), part].concat();
        let tensors: Value = serde_json::from_slice(part).unwrap_or_default();
        let ends = tensors.as_object().into_iter().flatten().filter_map(|(_, t)| t["data_offsets"][1].as_u64());
        let zeros = ends.max().unwrap_or(0).min(DATA_BYTES_MAX);
        self.put(name, Some(&header), zeros);
        Some((header, zeros))
    }
}

/// The `N` files of an input; those that are not there are empty.
fn parts<const N: usize>(input: &[u8]) -> [&[u8]; N] {
    let mut parts = input.splitn(N, |byte| *byte == SEPARATOR);
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

/// A GGUF file; one that does not hold its tensors is read again with zeros in their place.
fn gguf(case: &mut Case, input: &[u8]) -> Result<()> {
    case.put("model.gguf", Some(input), 0);
    let path = case.dir.join("model.gguf");
    edge_run::internals::quantize::open(&path).and_then(|source| read_source(case, source)).or_else(|_| {
        case.put("model.gguf", Some(input), GGUF_DATA_BYTES as u64);
        read_source(case, edge_run::internals::quantize::open(&path)?)
    })
}

/// A folder as Hugging Face keeps models: config.json, the safetensors files, their index, and the text side.
fn huggingface(case: &mut Case, input: &[u8]) -> Result<()> {
    let [config, first, second, index, tokenizer, tokenizer_config, generation, template, readme] = parts(input);
    let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let whole = if index.is_empty() { first } else { &[] };
    case.put_text("config.json", config);
    case.put_text("model.safetensors.index.json", index);
    case.put_safetensors("model.safetensors", whole);
    case.put_safetensors(shards[0], if index.is_empty() { &[] } else { first });
    case.put_safetensors(shards[1], second);
    case.put_text("tokenizer.json", tokenizer);
    case.put_text("tokenizer_config.json", tokenizer_config);
    case.put_text("generation_config.json", generation);
    case.put_text("chat_template.jinja", template);
    case.put_text("README.md", readme);
    read_source(case, edge_run::internals::quantize::open(&case.dir)?)
}

fn read_source(case: &Case, mut source: Box<dyn Source>) -> Result<()> {
    let (shape, spec) = (source.shape().clone(), source.spec().clone());
    assert!(shape.fault().is_none(), "{shape:?}");
    let mut rows = Vec::new();
    for tensor in SourceTensor::all(&shape, &spec) {
        let (all, input) = tensor.dims(&shape, &spec);
        source.rows(tensor, all.saturating_sub(2)..all, &mut rows)?;
        assert_eq!(rows.len(), all.min(2) as usize * input as usize, "{tensor:?}");
        let _ = source.locate(tensor);
    }
    let text = edge_run::internals::quantize::checked_text(source.as_ref())?.0;
    let named_templates = text.named_templates_file();
    let files = TextFiles {
        folder: &case.dir,
        tokenizer: &text.tokenizer,
        template: text.chat_template.as_deref(),
        templates: named_templates.as_deref(),
        generation: Some(&text.generation_config),
    };
    speak(&TextModel::from_files(&files, shape.vocab)?, "A text, 123 <s> \u{e9}\u{1f600}\n")
}

/// A model folder: its manifest, the headers of its four safetensors files, and the text side. Files whose hash in the
/// manifest is empty get the one that they have, and their length.
fn folder(case: &mut Case, input: &[u8]) -> Result<()> {
    let [manifest, base, slice_1, slice_2, slice_3, tokenizer, generation, template] = parts(input);
    let mut facts = Vec::new();
    for (slice, part) in [base, slice_1, slice_2, slice_3].into_iter().enumerate() {
        let name = layout::slice_file(slice);
        let header = case.put_safetensors(&name, part);
        facts.push((name, header.unwrap_or_else(|| (part.to_vec(), 0))));
    }
    for (name, text) in [(TOKENIZER_FILE, tokenizer), (GENERATION_FILE, generation), (CHAT_TEMPLATE_FILE, template)] {
        case.put_text(name, text);
        facts.push((name.into(), (text.to_vec(), 0)));
    }
    let manifest = with_hashes(manifest, &facts).unwrap_or_else(|| manifest.to_vec());
    case.put(MANIFEST_FILE, Some(&manifest), 0);
    read_folder(&ModelFolder::open(&case.dir)?)
}

/// The manifest with lengths and hashes where it has room for them; nothing where it is no such object.
fn with_hashes(manifest: &[u8], facts: &[(String, (Vec<u8>, u64))]) -> Option<Vec<u8>> {
    let mut manifest: Value = serde_json::from_slice(manifest).ok()?;
    for (name, (bytes, zeros)) in facts {
        let Some(entry) = manifest.get_mut("files").and_then(|files| files.get_mut(name)?.as_object_mut()) else {
            continue;
        };
        if entry.get("sha256") != Some(&json!("")) {
            continue;
        }
        let whole = [bytes.as_slice(), &vec![0; *zeros as usize]].concat();
        entry.insert("sha256".into(), hash(&whole).into());
        entry.insert("bytes".into(), whole.len().into());
        if entry.contains_key("header_sha256") {
            entry.insert("header_sha256".into(), hash(bytes).into());
        }
    }
    serde_json::to_vec(&manifest).ok()
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read_folder(folder: &ModelFolder) -> Result<()> {
    let shape = folder.shape().clone();
    let _ = serde_json::to_string(&folder.summary()).expect("a summary is text and numbers");
    for slice in 0..SLICES {
        for spec in layout::file_tensors(
            &shape,
            &folder.manifest().spec,
            folder.group_size(),
            folder.thresholds().is_some(),
            slice,
        ) {
            assert_eq!(folder.tensor(slice, &spec.name)?.bytes().len() as u64, spec.bytes());
            folder.place(slice, &spec.name)?;
        }
    }
    if let Some(thresholds) = folder.thresholds() {
        for bits in [-1.0, 2.0, 3.3, 8.0, f32::INFINITY] {
            assert!(thresholds.threshold(bits).is_finite(), "{bits} bits");
        }
    }
    let text = TextModel::open(folder)?;
    speak(&text, "A text, 123 <s> \u{e9}\u{1f600}\n")?;
    let model = Model::load(folder, cpu::open(), 8, &mut |_, _| ())?;
    for bits in [2.0, 8.0] {
        let mut sequence = model.sequence(&PrecisionPlan::for_bits(bits, false, "fuzz")?)?;
        sequence.next_logits(&[0, shape.vocab - 1, 0])?;
    }
    Ok(())
}

/// A calibration pack: a safetensors file, or the header of one.
fn pack(case: &mut Case, input: &[u8]) -> Result<()> {
    case.put("pack.safetensors", Some(&[]), 0);
    case.put_safetensors("pack.safetensors", input);
    let pack = Pack::open(&case.dir.join("pack.safetensors"))?;
    for spec in pack.info().tensors() {
        assert_eq!(pack.tensor(&spec).len() as u64, spec.bytes());
    }
    Ok(())
}

/// A saved session; what begins with a brace is its facts, and gets zeros for tokens and cells, and their hash.
fn session(case: &mut Case, input: &[u8]) -> Result<()> {
    let path = case.dir.join("session");
    case.put("session", Some(input), 0);
    if let Ok(facts) = serde_json::from_slice::<SessionFacts>(input) {
        let cells = facts.cells.as_ref().map_or(0, SavedCells::bytes);
        if cells.saturating_add(u64::from(facts.tokens) * 4) <= DATA_BYTES_MAX {
            case.put("session", None, 0);
            let mut writer = SavedSessionWriter::create(&path, &facts, &vec![0; facts.tokens as usize])?;
            for (at, shape) in facts.cells.iter().flat_map(|cells| &cells.tensors).enumerate() {
                writer.write_cells(at, &vec![0; shape.iter().map(|dim| *dim as usize).product::<usize>() * 4])?;
            }
            case.bytes += writer.finish()? as usize;
        }
    }
    let saved = SavedSession::open(&path)?;
    assert_eq!(saved.tokens().len(), saved.facts().tokens as usize);
    for (at, shape) in saved.facts().cells.iter().flat_map(|cells| &cells.tensors).enumerate() {
        assert_eq!(saved.cells(at).len(), shape.iter().map(|dim| *dim as usize).product::<usize>() * 4);
    }
    Ok(())
}

/// A tokenizer, its settings, and a text.
fn tokenizer(case: &mut Case, input: &[u8]) -> Result<()> {
    let [tokenizer, generation, text] = parts(input).map(String::from_utf8_lossy);
    let generation = (!generation.is_empty()).then_some(generation);
    let files = TextFiles {
        folder: &case.dir,
        tokenizer: &tokenizer,
        template: None,
        templates: None,
        generation: generation.as_deref(),
    };
    speak(&TextModel::from_files(&files, 1 << 16)?, &text)
}

/// To ids and back, in one go and one by one, and a chat.
fn speak(model: &TextModel, text: &str) -> Result<()> {
    let mut ids = model.encode(text, true)?;
    ids.extend(model.encode(text, false)?);
    ids.truncate(1000);
    ids.extend([0, 1, 2, 65535, u32::MAX]);
    let _ = model.decode(&ids);
    let mut detokenizer = Detokenizer::continuing(model, &ids[..3]);
    for id in &ids {
        let _ = detokenizer.push(model, *id);
        let _ = (model.is_end(*id), model.is_special(*id));
    }
    let _ = detokenizer.finish(model);
    model.encode_chat(&[Message::new(Role::User, text)]).map(|_| ())
}

/// A chat template, and what the system, the user and the assistant say in turn.
fn template(_case: &mut Case, input: &[u8]) -> Result<()> {
    let mut parts = input.splitn(8, |byte| *byte == SEPARATOR).map(String::from_utf8_lossy);
    let template = ChatTemplate::new(Path::new(CHAT_TEMPLATE_FILE), &parts.next().unwrap_or_default());
    let roles = [Role::System, Role::User, Role::Assistant].into_iter().cycle();
    let messages: Vec<Message> = parts.zip(roles).map(|(text, role)| Message::new(role, text)).collect();
    template.render(&messages, "<s>", "</s>").map(|_| ())
}

/// A policy and a trace; one that is empty is not read.
fn power(case: &mut Case, input: &[u8]) -> Result<()> {
    let [policy_text, trace_text] = parts(input);
    case.put("edge-run.toml", Some(policy_text), 0);
    case.put("trace.jsonl", Some(trace_text), 0);
    let policy = match policy_text {
        [] => Policy::default(),
        _ => PowerConfig::read(&case.dir.join("edge-run.toml"))?.policy,
    };
    let steps = match trace_text {
        [] => vec![],
        _ => Trace::read(&case.dir.join("trace.jsonl"))?.steps().to_vec(),
    };
    for has_routers in [false, true] {
        if policy.check_limits(has_routers).is_err() {
            continue;
        }
        let mut governor = Governor::new(policy.clone(), has_routers, &PowerState::AC)?;
        for step in &steps {
            let now = match step.at {
                At::Token(token) => Duration::from_secs(token as u64 % (1 << 32)),
                At::Time(time) => time,
            };
            governor.observe(&step.state, now);
            let _ = governor.rises_at();
            let plan = governor.decision().plan(has_routers);
            assert!(plan.is_ok(), "{plan:?} in {:?}", step.state);
        }
    }
    Ok(())
}

//! GGUF files that are sound but for a few edits, so that what is behind the header's parser is reached.

use libfuzzer_sys::arbitrary::{Result, Unstructured};

/// Sound files to begin with.
const BASES: [&[u8]; 3] = [
    include_bytes!("../seeds/gguf/sound-byte-level-q4_0"),
    include_bytes!("../seeds/gguf/sound-sentence-piece-q8_0"),
    include_bytes!("../seeds/gguf/sound-untied"),
];

/// Keys that readers know, most of which the bases lack.
const KEYS: [&str; 28] = [
    "general.alignment",
    "general.architecture",
    "general.license",
    "general.name",
    "llama.attention.head_count",
    "llama.attention.head_count_kv",
    "llama.attention.key_length",
    "llama.attention.layer_norm_rms_epsilon",
    "llama.attention.value_length",
    "llama.block_count",
    "llama.embedding_length",
    "llama.expert_count",
    "llama.feed_forward_length",
    "llama.rope.dimension_count",
    "llama.rope.freq_base",
    "llama.rope.scale_linear",
    "llama.rope.scaling.factor",
    "llama.rope.scaling.type",
    "split.count",
    "tokenizer.chat_template",
    "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.merges",
    "tokenizer.ggml.model",
    "tokenizer.ggml.pre",
    "tokenizer.ggml.scores",
    "tokenizer.ggml.token_type",
    "tokenizer.ggml.tokens",
];

/// Texts that readers know, or should not stumble over.
const TEXTS: [&str; 16] = [
    "llama",
    "gpt2",
    "bert",
    "none",
    "linear",
    "yarn",
    "default",
    "smollm",
    "",
    " ",
    "a b",
    "\u{120}the",
    "<0x41>",
    "<s>",
    "\u{2581}",
    "{{ messages }}",
];

/// Numbers at which readers go wrong.
const NUMBERS: [u64; 12] = [0, 1, 2, 8, 31, 64, 255, 256, 65536, 1 << 31, 1 << 40, u64::MAX];

/// The parts of a header, as bytes.
struct Header {
    version: u32,
    pairs: Vec<(Vec<u8>, Vec<u8>)>,
    tensors: Vec<Tensor>,
}

/// A tensor of a header.
#[derive(Clone)]
struct Tensor {
    name: Vec<u8>,
    dims: Vec<u64>,
    dtype: u32,
    offset: u64,
}

/// A GGUF file with the edits that `input` describes.
pub fn edited(input: &[u8]) -> Vec<u8> {
    let mut input = Unstructured::new(input);
    let base = input.choose(&BASES).copied().unwrap_or(BASES[0]);
    let mut header = Header::read(base).expect("the seeds are GGUF files");
    while !input.is_empty() && edit(&mut header, &mut input).is_ok() {}
    header.write()
}

fn edit(header: &mut Header, input: &mut Unstructured<'_>) -> Result<()> {
    let (pairs, tensors) = (&mut header.pairs, &mut header.tensors);
    let pair = input.int_in_range(0..=pairs.len().saturating_sub(1))?;
    let tensor = input.int_in_range(0..=tensors.len().saturating_sub(1))?;
    match input.int_in_range(0..=11)? {
        0..=2 if !pairs.is_empty() => pairs[pair].1 = value(input, 0)?,
        3 if !pairs.is_empty() => drop(pairs.remove(pair)),
        4 if !pairs.is_empty() => pairs.push(pairs[pair].clone()),
        5 | 6 => pairs.push((input.choose(&KEYS)?.as_bytes().to_vec(), value(input, 0)?)),
        7 if !tensors.is_empty() => tensors[tensor].dtype = input.int_in_range(0..=40)?,
        8 if !tensors.is_empty() => tensors[tensor].offset = *input.choose(&NUMBERS)?,
        9 if !tensors.is_empty() => {
            let dims = input.int_in_range(0..=5)?;
            tensors[tensor].dims = (0..dims).map(|_| Ok(*input.choose(&NUMBERS)?)).collect::<Result<_>>()?;
        }
        10 if !tensors.is_empty() => {
            let mut copy = tensors[tensor].clone();
            if input.arbitrary()? {
                copy.name = b"rope_freqs.weight".to_vec();
                (copy.dims, copy.dtype) = (vec![input.int_in_range(0..=8)?], input.int_in_range(0..=1)?);
            }
            tensors.push(copy);
        }
        11 if !tensors.is_empty() => drop(tensors.remove(tensor)),
        _ => header.version = input.int_in_range(1..=4)?,
    }
    Ok(())
}

/// A value with its type before it.
fn value(input: &mut Unstructured<'_>, nesting: u32) -> Result<Vec<u8>> {
    let kind = input.int_in_range(0..=13_u32)?;
    Ok([&kind.to_le_bytes(), payload(input, kind, nesting)?.as_slice()].concat())
}

fn payload(input: &mut Unstructured<'_>, kind: u32, nesting: u32) -> Result<Vec<u8>> {
    let number = if input.arbitrary()? { *input.choose(&NUMBERS)? } else { input.arbitrary()? };
    let float = [0.0, -1.0, 1.0, f64::NAN, f64::INFINITY, 1e-5, 1e30][(number % 7) as usize];
    Ok(match kind {
        0 | 1 | 7 => vec![number as u8],
        2 | 3 => (number as u16).to_le_bytes().to_vec(),
        6 => (float as f32).to_le_bytes().to_vec(),
        8 => counted(if input.arbitrary()? { input.choose(&TEXTS)?.as_bytes() } else { input.arbitrary::<&[u8]>()? }),
        9 if nesting < 6 => {
            let kind = input.int_in_range(0..=12_u32)?;
            let count = input.int_in_range(0..=24_u64)?;
            let stated = if input.ratio(1, 16)? { number } else { count };
            let mut out = [kind.to_le_bytes().as_slice(), &stated.to_le_bytes()].concat();
            for _ in 0..count {
                out.extend(payload(input, kind, nesting + 1)?);
            }
            out
        }
        10 | 11 => number.to_le_bytes().to_vec(),
        12 => float.to_le_bytes().to_vec(),
        _ => (number as u32).to_le_bytes().to_vec(),
    })
}

fn counted(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes(), bytes].concat()
}

impl Header {
    fn read(mut bytes: &[u8]) -> Option<Header> {
        let bytes = &mut bytes;
        take(bytes, 4)?;
        let version = u32_of(bytes)?;
        let (tensors, pairs) = (u64_of(bytes)?, u64_of(bytes)?);
        let pair = |bytes: &mut &[u8]| Some((text(bytes)?, raw_value(bytes)?));
        let pairs = (0..pairs).map(|_| pair(bytes)).collect::<Option<Vec<_>>>()?;
        let tensor = |bytes: &mut &[u8]| {
            let (name, dims) = (text(bytes)?, u32_of(bytes)?);
            let dims = (0..dims).map(|_| u64_of(bytes)).collect::<Option<_>>()?;
            Some(Tensor { name, dims, dtype: u32_of(bytes)?, offset: u64_of(bytes)? })
        };
        let tensors = (0..tensors).map(|_| tensor(bytes)).collect::<Option<Vec<_>>>()?;
        Some(Header { version, pairs, tensors })
    }

    fn write(&self) -> Vec<u8> {
        let mut out = [b"GGUF".as_slice(), &self.version.to_le_bytes()].concat();
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.pairs.len() as u64).to_le_bytes());
        for (key, value) in &self.pairs {
            out.extend(counted(key));
            out.extend(value);
        }
        for Tensor { name, dims, dtype, offset } in &self.tensors {
            out.extend(counted(name));
            out.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
            out.extend(dtype.to_le_bytes());
            out.extend(offset.to_le_bytes());
        }
        out
    }
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

fn u32_of(bytes: &mut &[u8]) -> Option<u32> {
    take(bytes, 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn u64_of(bytes: &mut &[u8]) -> Option<u64> {
    take(bytes, 8)?.try_into().ok().map(u64::from_le_bytes)
}

fn text(bytes: &mut &[u8]) -> Option<Vec<u8>> {
    let length = u64_of(bytes)?;
    take(bytes, length as usize).map(<[u8]>::to_vec)
}

/// A value with its type, as the bytes that it is written in.
fn raw_value(bytes: &mut &[u8]) -> Option<Vec<u8>> {
    let whole = *bytes;
    let kind = u32_of(bytes)?;
    skip(bytes, kind)?;
    Some(whole[..whole.len() - bytes.len()].to_vec())
}

fn skip(bytes: &mut &[u8], kind: u32) -> Option<()> {
    match kind {
        8 => drop(text(bytes)?),
        9 => {
            let (kind, count) = (u32_of(bytes)?, u64_of(bytes)?);
            (0..count).try_for_each(|_| skip(bytes, kind))?;
        }
        0 | 1 | 7 => drop(take(bytes, 1)?),
        2 | 3 => drop(take(bytes, 2)?),
        10..=12 => drop(take(bytes, 8)?),
        _ => drop(take(bytes, 4)?),
    }
    Some(())
}

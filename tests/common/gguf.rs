//! Writes GGUF files, as the ggml repository describes them (docs/gguf.md).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use half::{bf16, f16};

/// Where the data of each tensor begins: at multiples of this many bytes.
const ALIGNMENT: usize = 32;
/// Weights of a block of Q8_0.
const BLOCK: usize = 32;

/// A value of the metadata.
#[derive(Debug, Clone)]
pub enum GgufValue {
    U8(u8),
    U16(u16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    U64(u64),
    String(String),
    /// All of one type.
    Array(Vec<GgufValue>),
}

impl GgufValue {
    /// The number of the type in files.
    fn kind(&self) -> u32 {
        match self {
            GgufValue::U8(_) => 0,
            GgufValue::U16(_) => 2,
            GgufValue::U32(_) => 4,
            GgufValue::I32(_) => 5,
            GgufValue::F32(_) => 6,
            GgufValue::Bool(_) => 7,
            GgufValue::String(_) => 8,
            GgufValue::Array(_) => 9,
            GgufValue::U64(_) => 10,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            GgufValue::U8(value) => out.push(*value),
            GgufValue::U16(value) => out.extend(value.to_le_bytes()),
            GgufValue::U32(value) => out.extend(value.to_le_bytes()),
            GgufValue::I32(value) => out.extend(value.to_le_bytes()),
            GgufValue::F32(value) => out.extend(value.to_le_bytes()),
            GgufValue::Bool(value) => out.push(u8::from(*value)),
            GgufValue::U64(value) => out.extend(value.to_le_bytes()),
            GgufValue::String(text) => write_text(text, out),
            GgufValue::Array(values) => {
                out.extend(values.first().map_or(4, GgufValue::kind).to_le_bytes());
                out.extend((values.len() as u64).to_le_bytes());
                values.iter().for_each(|value| value.write(out));
            }
        }
    }
}

/// A tensor as it lies in a file.
pub struct GgufTensor {
    /// The number of its type in ggml.
    pub kind: u32,
    /// Slowest dimension first.
    pub dims: Vec<usize>,
    pub bytes: Vec<u8>,
}

/// The types that weights are written in here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufType {
    F32,
    F16,
    Bf16,
    Q8_0,
}

impl GgufType {
    /// The weights as a tensor of this type.
    pub fn tensor(self, dims: &[usize], weights: &[f32]) -> GgufTensor {
        let (kind, bytes) = match self {
            GgufType::F32 => (0, weights.iter().flat_map(|w| w.to_le_bytes()).collect()),
            GgufType::F16 => (1, weights.iter().flat_map(|w| f16::from_f32(*w).to_le_bytes()).collect()),
            GgufType::Bf16 => (30, weights.iter().flat_map(|w| bf16::from_f32(*w).to_le_bytes()).collect()),
            GgufType::Q8_0 => (8, weights.chunks(BLOCK).flat_map(q8_0).collect()),
        };
        GgufTensor { kind, dims: dims.to_vec(), bytes }
    }
}

/// A block: its scale as f16, and codes from -127 to 127.
fn q8_0(weights: &[f32]) -> Vec<u8> {
    let scale = weights.iter().fold(0f32, |most, w| most.max(w.abs())) / 127.0;
    let code = |w: &f32| if scale == 0.0 { 0 } else { (w / scale).round() as i8 };
    let codes = weights.iter().map(|w| code(w).cast_unsigned());
    f16::from_f32(scale).to_le_bytes().into_iter().chain(codes).collect()
}

/// Writes a file of version 3.
pub fn write(path: &Path, metadata: &BTreeMap<String, GgufValue>, tensors: &[(String, GgufTensor)]) {
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        write_text(key, &mut out);
        out.extend(value.kind().to_le_bytes());
        value.write(&mut out);
    }
    let mut offset = 0;
    for (name, tensor) in tensors {
        write_text(name, &mut out);
        out.extend((tensor.dims.len() as u32).to_le_bytes());
        tensor.dims.iter().rev().for_each(|dim| out.extend((*dim as u64).to_le_bytes()));
        out.extend(tensor.kind.to_le_bytes());
        out.extend((offset as u64).to_le_bytes());
        offset = (offset + tensor.bytes.len()).next_multiple_of(ALIGNMENT);
    }
    for (_, tensor) in tensors {
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        out.extend(&tensor.bytes);
    }
    fs::write(path, out).unwrap();
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

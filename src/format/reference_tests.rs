//! References written, read, damaged and in the way.

use super::*;
use crate::format::container::ContainerWriter;
use crate::shape::{Rope, RopeScaling};

/// Stored logits are off by half a unit, and by a whole one next to the largest.
const UNIT: f32 = 1.0 / UNITS;

fn info(top: u32) -> ReferenceInfo {
    let shape = LlamaShape {
        layers: 1,
        model_dim: 64,
        ffn_dim: 64,
        heads: 1,
        kv_heads: 1,
        head_dim: 64,
        vocab: 6,
        max_context: 8,
        norm_eps: 1e-5,
        tied_head: true,
        rope: Rope { theta: 1e4, scaling: RopeScaling::None },
    };
    let source = ModelSource {
        name: "tiny".into(),
        format: "gguf".into(),
        family: None,
        dtypes: vec!["F32".into()],
        licence: None,
    };
    let text = |name: &str, windows: &[u32]| ReferenceText { name: name.into(), windows: windows.to_vec() };
    ReferenceInfo {
        reference_version: REFERENCE_VERSION,
        source,
        shape,
        top,
        texts: vec![text("a", &[2, 2]), text("b", &[3])],
        tokens_sha256: tokens_sha256([Some("x".to_string()), None].into_iter()),
    }
}

/// Logits of seven tokens.
fn logits() -> Vec<Vec<f32>> {
    (0..7).map(|row| (0..6).map(|id| ((row * 5 + id * 7) % 11) as f32 * 0.7321 - 2.0).collect()).collect()
}

fn rows(top: u32) -> CodedLogits {
    let mut rows = CodedLogits::default();
    logits().iter().for_each(|logits| rows.push(logits, top as usize, Some(1)));
    rows
}

fn write(path: &Path, info: ReferenceInfo) -> Result<u64> {
    let mut writer = ReferenceWriter::create(path, info.clone(), false)?;
    writer.write_tokens(&[0, 1, 2, 3, 4, 5, 0])?;
    writer.write_rows(0, &rows(info.top))?;
    writer.finish()
}

#[test]
fn what_was_written_is_read() {
    for top in [6, 3] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r");
        let bytes = write(&path, info(top)).unwrap();
        assert_eq!(bytes, std::fs::metadata(&path).unwrap().len());
        let reference = Reference::open(&path).unwrap();
        assert_eq!((reference.info(), reference.tokens()), (&info(top), &[0, 1, 2, 3, 4, 5, 0][..]));
        assert_eq!(reference.info().windows().collect::<Vec<_>>(), [2, 2, 3]);
        for (token, logits) in logits().iter().enumerate() {
            let row = reference.row(token).unwrap();
            let largest = logits.iter().copied().fold(f32::MIN, f32::max);
            let ids: Vec<u32> = row.ids.map_or((0..6).collect(), <[u32]>::to_vec);
            assert_eq!((ids.len(), row.codes.len()), (top as usize, top as usize));
            let (mut all, mut kept) = (0.0, 0.0);
            for (id, logit) in logits.iter().enumerate() {
                let part = (logit - largest).exp();
                all += part;
                match ids.iter().position(|kept| *kept == id as u32) {
                    Some(at) => {
                        kept += part;
                        assert!((f32::from(row.codes[at]) * UNIT - (largest - logit)).abs() <= UNIT / 2.0 + 1e-6);
                    }
                    None => assert!(ids.iter().all(|kept| logits[*kept as usize] >= *logit)),
                }
            }
            assert!((row.rest - (all - kept)).abs() < 1e-6, "{row:?}");
            assert!((reference.nll()[token] - (largest - logits[1] + all.ln())).abs() < 1e-6);
        }
    }
}

#[test]
fn codes_end_where_nothing_is_likely_and_keep_the_largest_apart() {
    assert_eq!([code(1.0, 1.0), code(1.0, 1.0 - UNIT), code(1.0, 0.0)], [0, 1, 1024]);
    assert_eq!(code(1.0, 1.0 - UNIT / 8.0), 1, "a logit that is not the largest");
    assert_eq!([code(1.0, -63.5), code(1.0, f32::NEG_INFINITY)], [u16::MAX; 2]);
}

#[test]
fn a_reference_appears_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let names = || std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    let path = dir.path().join("r");
    let mut writer = ReferenceWriter::create(&path, info(6), false).unwrap();
    writer.write_tokens(&[0; 7]).unwrap();
    assert!(!path.exists());
    drop(writer);
    assert!(names().is_empty(), "{:?}", names());
    write(&path, info(6)).unwrap();
    assert_eq!(names(), ["r"]);
    let refused = |path: &Path, replace| ReferenceWriter::create(path, info(6), replace).unwrap_err().to_string();
    assert!(refused(&path, false).ends_with("expected no file, got a file, which was not to be replaced"));
    assert!(ReferenceWriter::create(&path, info(6), true).is_ok());
    let other = dir.path().join("other.safetensors");
    let tensor = TensorSpec { name: "t".into(), dtype: Dtype::U32, shape: vec![0] };
    drop(ContainerWriter::create(other.clone(), &[tensor], None).unwrap());
    std::fs::write(dir.path().join("notes.txt"), "mine").unwrap();
    for other in [other, dir.path().join("notes.txt")] {
        assert!(refused(&other, true).ends_with("expected no file or a reference, got a file that is none"));
    }
}

#[test]
fn damage_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r");
    write(&path, info(3)).unwrap();
    let sound = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(sound[..8].try_into().unwrap()) as usize + 8;
    let fault = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let read =
            Reference::open(&path).and_then(|reference| (0..7).try_for_each(|row| reference.row(row).map(|_| ())));
        read.unwrap_err().to_string()
    };
    // tokens, nll and rest have 7 words each, then ids and codes 21.
    let changed = |word: usize, to: u32| {
        let mut bytes = sound.clone();
        bytes[header + 4 * word..][..4].copy_from_slice(&to.to_le_bytes());
        fault(&bytes)
    };
    assert!(changed(0, 6).ends_with("is damaged: tokens: expected ids below 6, got 6"), "{}", changed(0, 6));
    assert!(changed(7, f32::NAN.to_bits()).contains("nll: expected finite numbers"));
    assert!(changed(14, (-1f32).to_bits()).contains("rest: expected 0 or more, got -1 in row 0"));
    assert!(changed(21, 9).contains("ids: expected rising ids, got others in row 0"));
    assert!(changed(23, 9).contains("ids: expected ids below 6, got 9"));
    let mut no_largest = sound.clone();
    no_largest[header + 4 * 42..].fill(1);
    assert!(fault(&no_largest).contains("codes: expected a code of 0, the largest logit's, got none in row 0"));
    assert!(fault(&sound[..sound.len() - 1]).contains("the file is cut short"));
    assert!(fault(b"none of ours at all").contains("is damaged"));
    let replaced = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let text: Vec<u8> = sound[..header].to_vec();
        let text = String::from_utf8_lossy(&text[8..]).replace(from, to);
        fault(&[&sound[..8], text.as_bytes(), &sound[header..]].concat())
    };
    assert!(replaced("reference_version\\\":1", "reference_version\\\":2").contains("version of the reference"));
    assert!(replaced("[2,2]", "[1,3]").contains("edge_run_reference.texts.windows: expected 2 to 8 tokens, got 1"));
    assert!(replaced("[2,2]", "[2,3]").contains("expected U32 [8], got U32 [7]"));
    assert!(replaced("top\\\":3", "top\\\":7").contains("edge_run_reference.top: expected 1 to 6, got 7"));
    assert!(replaced("edge_run_reference", "edge_run_others___").contains("the facts of a reference, got none"));
}

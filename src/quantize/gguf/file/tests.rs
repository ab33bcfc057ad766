//! Headers of GGUF files, sound and damaged.

use super::*;

/// A header with the pairs, each a key and a type and bytes, and the tensors, each a name, dimensions and a type,
/// then `data` bytes.
fn header(pairs: &[(&str, u32, Vec<u8>)], tensors: &[(&str, &[u64], u32)], data: usize) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    let string = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    };
    bytes.extend(3u32.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((pairs.len() as u64).to_le_bytes());
    for (key, kind, value) in pairs {
        string(&mut bytes, key);
        bytes.extend(kind.to_le_bytes());
        bytes.extend(value);
    }
    for (name, dims, kind) in tensors {
        // `NAME@OFFSET` lies elsewhere than at the beginning of the data.
        let (name, offset) = name.split_once('@').unwrap_or((name, "0"));
        string(&mut bytes, name);
        bytes.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|dim| bytes.extend(dim.to_le_bytes()));
        bytes.extend(kind.to_le_bytes());
        bytes.extend(offset.parse::<u64>().unwrap().to_le_bytes());
    }
    bytes.resize(bytes.len().next_multiple_of(32) + data, 0);
    bytes
}

fn fault(bytes: &[u8]) -> String {
    parse(Path::new("x.gguf"), bytes).unwrap_err().to_string()
}

#[test]
fn tensors_are_placed_and_values_read() {
    let bytes = header(&[("a", 4, vec![7, 0, 0, 0])], &[("t", &[32, 2], 8)], 68);
    let file = parse(Path::new("x.gguf"), &bytes).unwrap();
    assert_eq!(file.metadata.u32("a").unwrap(), Some(7));
    let tensor = &file.tensors["t"];
    assert_eq!((tensor.dtype, &tensor.dims[..], tensor.offset), (BlockType::Q8_0, &[2, 32][..], 96));
}

#[test]
fn faults_name_what_is_wrong() {
    assert!(fault(b"GGU").contains("magic"));
    assert!(
        fault(&header(&[], &[("t", &[32, 2], 8)], 67))
            .contains("length: expected 164 bytes, got 163 bytes: the file is cut short")
    );
    assert!(fault(&header(&[], &[("t", &[31], 8)], 99)).contains("whole blocks"));
    assert!(fault(&header(&[], &[("t", &[], 0)], 99)).contains("no dimensions"));
    assert!(fault(&header(&[], &[("t", &[32, 1 << 40, 1 << 40], 0)], 99)).contains("whole blocks"));
    assert!(fault(&header(&[], &[("t", &[1, 1, 1, 1, 1], 0)], 99)).contains("at most 4 dimensions"));
    for alignment in [0u32, 3, 1 << 31] {
        let bytes = header(&[("general.alignment", 4, alignment.to_le_bytes().to_vec())], &[], 0);
        assert!(fault(&bytes).contains("general.alignment"), "{alignment}");
    }
    let endless = [9u32.to_le_bytes().as_slice(), &u64::MAX.to_le_bytes()].concat();
    assert!(fault(&header(&[("deep", 9, endless.repeat(6))], &[], 0)).contains("arrays at most"));
    let long = [8u32.to_le_bytes().as_slice(), &u64::MAX.to_le_bytes()].concat();
    assert!(fault(&header(&[("long", 9, long)], &[], 0)).contains("long"));
}

#[test]
fn what_is_there_twice_or_over_another_is_named() {
    let key = ("llama.rope.freq_base", 6, vec![0; 4]);
    assert!(fault(&header(&[key.clone(), key], &[], 0)).contains("llama.rope.freq_base: expected one value"));
    let twice = header(&[], &[("token_embd.weight", &[32], 0), ("token_embd.weight@128", &[32], 0)], 256);
    assert!(fault(&twice).contains("token_embd.weight: expected one tensor, got two"));
    let over = header(&[], &[("a", &[32], 0), ("b@96", &[32], 0)], 256);
    assert!(fault(&over).contains("b: expected data from byte") && fault(&over).contains("where `a` ends"));
    let beside = header(&[], &[("b@128", &[32], 0), ("a", &[32], 0), ("none@64", &[0], 0)], 256);
    assert!(parse(Path::new("x.gguf"), &beside).is_ok());
}

#[test]
fn lists_are_kept_as_they_lie_in_the_file_and_end_with_it() {
    let list = |kind: u32, count: u64, bytes: &[u8]| [&kind.to_le_bytes()[..], &count.to_le_bytes(), bytes].concat();
    let pairs = [("bytes", 9, list(0, 3, &[1, 2, 255])), ("signed", 9, list(5, 1, &[255; 4]))];
    let file = parse(Path::new("x.gguf"), &header(&pairs, &[], 0)).unwrap();
    assert_eq!(file.metadata.numbers("bytes").unwrap(), Some(vec![1.0, 2.0, 255.0]));
    assert_eq!(file.metadata.numbers("signed").unwrap(), Some(vec![-1.0]));
    assert!(size_of::<Value>() <= 40);
    for kind in 0..=12 {
        let endless = header(&[("list", 9, list(kind, u64::MAX, &[]))], &[], 0);
        assert!(fault(&endless).contains("list"), "{kind}");
    }
}

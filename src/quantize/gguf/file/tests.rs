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
        string(&mut bytes, name);
        bytes.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|dim| bytes.extend(dim.to_le_bytes()));
        bytes.extend(kind.to_le_bytes());
        bytes.extend(0u64.to_le_bytes());
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
    assert_eq!((tensor.dtype, &tensor.dims[..], tensor.offset), (GgmlDType::Q8_0, &[2, 32][..], 96));
}

#[test]
fn faults_name_what_is_wrong() {
    assert!(fault(b"GGU").contains("magic"));
    assert!(fault(&header(&[], &[("t", &[32, 2], 8)], 67)).contains("t: expected whole blocks within a file"));
    assert!(fault(&header(&[], &[("t", &[31], 8)], 99)).contains("whole blocks"));
    assert!(fault(&header(&[], &[("t", &[], 0)], 99)).contains("no dimensions"));
    assert!(fault(&header(&[], &[("t", &[32, 1 << 40, 1 << 40], 0)], 99)).contains("whole blocks"));
    assert!(fault(&header(&[], &[("t", &[1, 1, 1, 1, 1], 0)], 99)).contains("at most 4 dimensions"));
    assert!(fault(&header(&[], &[("blk.0.attn_q.weight", &[32], 23)], 99)).contains("`blk.0.attn_q.weight` `ggml"));
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
fn k_types_have_the_names_people_know() {
    assert_eq!(dtype_name(GgmlDType::Q4K), "Q4_K");
    assert_eq!(dtype_name(GgmlDType::Q4_1), "Q4_1");
    assert_eq!(dtype_name(GgmlDType::BF16), "BF16");
}

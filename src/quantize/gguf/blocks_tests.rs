//! Every block type against the decoders of others, bit for bit.
//!
//! `tests/golden/gguf_blocks.safetensors` holds 512 weights of each type: random blocks with scales of usual sizes, and
//! what `QTensor::dequantize` of candle-core 0.11.1 made of them. What candle lacks is in
//! `tests/golden/gguf_blocks_more.safetensors`, as `gguf.quants.dequantize` of the Python package gguf made it;
//! `tests/golden/gguf_blocks_more.py` writes that file.

use safetensors::SafeTensors;

use super::super::types::dtype_name;
use super::*;

const GOLDEN: &[u8] = include_bytes!("../../../tests/golden/gguf_blocks.safetensors");
const MORE: &[u8] = include_bytes!("../../../tests/golden/gguf_blocks_more.safetensors");

/// Blocks of a type, and the bits of their weights.
fn golden(golden: &SafeTensors<'_>, block_type: BlockType) -> (Vec<u8>, Vec<u32>) {
    let tensor = |part: &str| golden.tensor(&format!("{}.{part}", dtype_name(block_type))).unwrap();
    let (blocks, weights) = (tensor("blocks"), tensor("weights"));
    let bits = weights.data().chunks_exact(4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap()));
    (blocks.data().to_vec(), bits.collect())
}

#[test]
fn every_type_is_read_as_others_read_it() {
    let files = [GOLDEN, MORE].map(|bytes| SafeTensors::deserialize(bytes).unwrap());
    for block_type in BlockType::ALL {
        let is_more = matches!(block_type, BlockType::Iq4Nl | BlockType::Iq4Xs | BlockType::Mxfp4);
        let (blocks, expected) = golden(&files[usize::from(is_more)], block_type);
        assert_eq!(expected.len(), 512);
        let bits = |blocks: &[u8]| block_type.dequantize(blocks).iter().map(|w| w.to_bits()).collect::<Vec<u32>>();
        assert_eq!(bits(&blocks), expected, "{block_type:?}");
        // Every byte of a block counts.
        for at in 0..block_type.bytes() {
            let mut other = blocks.clone();
            other[at] ^= 0x55;
            assert_ne!(bits(&other), expected, "{block_type:?}, byte {at}");
        }
    }
}

#[test]
fn no_blocks_are_no_weights() {
    assert!(BlockType::ALL.iter().all(|block_type| block_type.dequantize(&[]).is_empty()));
}

#[test]
#[should_panic(expected = "not whole blocks")]
fn a_part_of_a_block_is_refused() {
    BlockType::Q4_1.dequantize(&[0; 19]);
}

//! The types of tensors that ggml has, by their numbers in files.

use super::blocks::BlockType;
use crate::error::{Error, Result};

/// Every type that ggml has or had, by number (`enum ggml_type` in ggml.h).
const NAMES: [(u32, &str); 43] = [
    (0, "F32"),
    (1, "F16"),
    (2, "Q4_0"),
    (3, "Q4_1"),
    (4, "Q4_2"),
    (5, "Q4_3"),
    (6, "Q5_0"),
    (7, "Q5_1"),
    (8, "Q8_0"),
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (12, "Q4_K"),
    (13, "Q5_K"),
    (14, "Q6_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (30, "BF16"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (36, "IQ4_NL_4_4"),
    (37, "IQ4_NL_4_8"),
    (38, "IQ4_NL_8_8"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
    (42, "Q2_0"),
];

/// The types that can be read, by the same numbers.
const TYPES: [(u32, BlockType); BlockType::ALL.len()] = [
    (0, BlockType::F32),
    (1, BlockType::F16),
    (2, BlockType::Q4_0),
    (3, BlockType::Q4_1),
    (6, BlockType::Q5_0),
    (7, BlockType::Q5_1),
    (8, BlockType::Q8_0),
    (10, BlockType::Q2K),
    (11, BlockType::Q3K),
    (12, BlockType::Q4K),
    (13, BlockType::Q5K),
    (14, BlockType::Q6K),
    (20, BlockType::Iq4Nl),
    (23, BlockType::Iq4Xs),
    (30, BlockType::Bf16),
    (39, BlockType::Mxfp4),
];

/// The block type with this number in ggml.
pub fn dtype(tensor: &str, number: u32) -> Result<BlockType> {
    let found = TYPES.iter().find(|(known, _)| *known == number);
    found.map(|(_, dtype)| *dtype).ok_or_else(|| Error::Unsupported {
        what: format!("dtype of `{tensor}`"),
        got: name_of(number).map_or(format!("ggml type {number}"), str::to_string),
        supported: TYPES.map(|(_, dtype)| dtype_name(dtype)).join(", "),
    })
}

/// The name that people know a block type by.
pub fn dtype_name(dtype: BlockType) -> &'static str {
    let number = TYPES.iter().find(|(_, known)| *known == dtype).map(|(number, _)| *number);
    number.and_then(name_of).expect("every type has a number and a name")
}

/// The number of a block type in ggml.
pub fn dtype_number(dtype: BlockType) -> u32 {
    let number = TYPES.iter().find(|(_, known)| *known == dtype).map(|(number, _)| *number);
    number.expect("every type has a number")
}

fn name_of(number: u32) -> Option<&'static str> {
    NAMES.iter().find(|(known, _)| *known == number).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_that_cannot_be_read_is_told_by_its_name() {
        let fault = |number| dtype("blk.0.attn_q.weight", number).unwrap_err().to_string();
        for (number, name) in [(16, "IQ2_XXS"), (9, "Q8_1"), (31, "Q4_0_4_4"), (34, "TQ1_0"), (40, "NVFP4"), (24, "I8")]
        {
            let named = format!("dtype of `blk.0.attn_q.weight` `{name}` is not supported; supported: F32, F16, Q4_0");
            assert!(fault(number).starts_with(&named), "{}", fault(number));
        }
        assert!(fault(43).contains("`ggml type 43`") && fault(u32::MAX).contains("`ggml type 4294967295`"));
    }

    #[test]
    fn every_type_that_is_read_has_the_name_of_its_number() {
        for (number, name) in NAMES {
            if let Ok(dtype) = dtype("t", number) {
                assert_eq!(dtype_name(dtype), name);
                let letters = |name: &str| name.to_uppercase().replace('_', "");
                assert_eq!(letters(&format!("{dtype:?}")), letters(name));
            }
        }
        assert!(BlockType::ALL.iter().all(|known| TYPES.iter().any(|(_, dtype)| dtype == known)));
    }
}

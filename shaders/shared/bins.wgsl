// What the codes of a weight's groups mean: binding 4 of every kernel that reads a weight in slices.
// The format is told in src/format/codes.rs.

// Of each group: lo and step, two f16.
@group(0) @binding(4) var<storage, read> scales: array<u32>;

// The low two bits of each byte of a slice's word: the codes of four neighbours.
const LOW_PAIRS: vec4<u32> = vec4<u32>(0x03030303u);

// Of a group, by its scale: the width of the finest bin, and the middle of the bin that an all-zero code names at
// `depth`; weight = code * x + y.
fn bin_of(scale: u32, depth: u32) -> vec2<f32> {
    let lo_step = unpack2x16float(scale);
    let finest = lo_step.y / 64.0;
    return vec2<f32>(finest, lo_step.x + finest * 0.5 * f32(1u << (8u - 2u * depth)));
}

// The same of the group that chunk `at` lies in. Rows are whole numbers of groups, so groups count on over all rows.
fn bin(at: u32, group_chunks: u32, depth: u32) -> vec2<f32> {
    return bin_of(scales[at / group_chunks], depth);
}

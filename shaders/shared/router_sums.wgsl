// What a router is told of its input: what this comes to in each hidden unit, as [2, HIDDEN] whole numbers, a high part
// and a low part, so that additions are exact in any order. src/kernels/router_sums.rs tells more.

// What the parts count.
const HIGH_PARTS: f32 = 16.0;
const LOW_PARTS: f32 = 16777216.0;
// Terms are no larger, so that a hundred of them fit.
const LARGEST: f32 = 1048576.0;

fn joined(high: u32, low: u32) -> f32 {
    return f32(bitcast<i32>(high)) / HIGH_PARTS + f32(low) / LOW_PARTS;
}

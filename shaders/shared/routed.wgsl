// The bindings of the kernels that make the norm of each token and select its depths at S neighbouring sites by it.

struct Params {
    // Eights of numbers in a row of x, and so in a row of w1.
    row_eights: u32,
    // The first site, whose router is the first in `w1`.
    first_site: u32,
    // Entries of a site's row of `depths`.
    depths_row: u32,
    // Added to the mean square by the norm.
    eps: f32,
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> norm: array<vec4<f32>>;
// [S, HIDDEN, D] f16 of the S sites, eight to an entry.
@group(0) @binding(2) var<storage, read> w1: array<vec4<u32>>;
// [4 L, REST], as control of all sites.
@group(0) @binding(3) var<storage, read> rest: array<f32>;
@group(0) @binding(4) var<storage, read> control: array<Control>;
@group(0) @binding(5) var<storage, read> step_rows: array<StepRow>;
@group(0) @binding(6) var<storage, read_write> normed: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> depths: array<u32>;

// What the kernels share that compute a router; src/routing.rs has the formula. A kernel declares `rest`: what all
// routers have beside w1.

struct Control {
    threshold: f32,
    // Slices that may be read here.
    most: u32,
}

const HIDDEN: u32 = 32u;
// Numbers of a router beside w1: b1, three rows of w2, and from the last place on b2.
const REST: u32 = 132u;
const B2: u32 = 128u;
const EPS: f32 = 1e-6;

// log(1 + exp(v)), with exp of nothing above zero: it does not overflow.
fn softplus(v: f32) -> f32 {
    return max(v, 0.0) + log(1.0 + exp(-abs(v)));
}

fn silu(v: f32) -> f32 {
    return v / (1.0 + exp(-v));
}

// 1 + the number of scores above the threshold, as far as slices may be read.
fn depth_of(o: vec3<f32>, control: Control) -> u32 {
    let s1 = o.x;
    let s2 = s1 - softplus(o.y);
    let s3 = s2 - softplus(o.z);
    let open = u32(s1 > control.threshold) + u32(s2 > control.threshold) + u32(s3 > control.threshold);
    return clamp(1u + open, 1u, control.most);
}

// Eight f16 times eight numbers.
fn dot_eight(w: vec4<u32>, low: vec4<f32>, high: vec4<f32>) -> f32 {
    let w_low = vec4<f32>(unpack2x16float(w.x), unpack2x16float(w.y));
    let w_high = vec4<f32>(unpack2x16float(w.z), unpack2x16float(w.w));
    return dot(low, w_low) + dot(high, w_high);
}

// The weights of a hidden unit, for the router whose numbers lie in `rest` from entry `own` on.
fn w2_of(own: u32, unit: u32) -> vec3<f32> {
    let at = own + HIDDEN + unit;
    return vec3<f32>(rest[at], rest[at + HIDDEN], rest[at + 2u * HIDDEN]);
}

fn b2_of(own: u32) -> vec3<f32> {
    return vec3<f32>(rest[own + B2], rest[own + B2 + 1u], rest[own + B2 + 2u]);
}

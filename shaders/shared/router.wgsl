// What the kernels share that compute a router; src/routing.rs tells the formula.

struct Control {
    threshold: f32,
    // Slices that may be read here.
    most: u32,
}

const HIDDEN: u32 = 32u;
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

// The rotation of a pair of dimensions by the position's angle.

// (a, b) rotated by (cos, sin). Products and sums are joined explicitly, so that all kernels round alike.
fn rotate(a: f32, b: f32, by: vec2<f32>) -> vec2<f32> {
    return vec2<f32>(fma(a, by.x, -(b * by.y)), fma(b, by.x, a * by.y));
}

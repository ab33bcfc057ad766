// The rotation of a pair of dimensions by the position's angle.

// (a, b) rotated by (cos, sin).
fn rotate(a: f32, b: f32, by: vec2<f32>) -> vec2<f32> {
    return vec2<f32>(a * by.x - b * by.y, b * by.x + a * by.y);
}

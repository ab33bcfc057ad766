// Weights as f16 in workgroup memory, for cooperative matrices. A kernel has them in `w_tile`, fours of neighbours in an
// entry, each in the order 0, 2, 1, 3, as gather_inputs.wgsl has x.

// A code with 0x4c00 above it is the f16 that is 16 more than a 64th of the code, which counts the base's bins; their
// width is an f16 as it is.
fn weights_of(bytes: u32, width: vec4<f16>, middle: vec4<f16>) -> vec4<f16> {
    let even = unpack2x16float((bytes & 0x00ff00ffu) | 0x4c004c00u);
    let odd = unpack2x16float(((bytes >> 8u) & 0x00ff00ffu) | 0x4c004c00u);
    return fma(vec4<f16>(vec2<f16>(even), vec2<f16>(odd)) - vec4<f16>(16.0h), width, middle);
}

// Unpacks sixteen neighbours, by a word of each slice, to four entries from `to` on. Slices that are not read are zero.
// Of each byte of a word, planes 0 and 2 are the even pairs of bits, and planes 1 and 3 the odd ones.
fn stage_word(to: u32, words: vec4<u32>, bin: vec2<f32>) {
    let width = vec4<f16>(f16(64.0 * bin.x));
    let middle = vec4<f16>(f16(bin.y));
    let even_high = ((words.x << 2u) & 0xccccccccu) | (words.y & 0x33333333u);
    let even_low = ((words.z << 2u) & 0xccccccccu) | (words.w & 0x33333333u);
    let odd_high = (words.x & 0xccccccccu) | ((words.y >> 2u) & 0x33333333u);
    let odd_low = (words.z & 0xccccccccu) | ((words.w >> 2u) & 0x33333333u);
    w_tile[to] = weights_of(((even_high << 4u) & 0xf0f0f0f0u) | (even_low & 0x0f0f0f0fu), width, middle);
    w_tile[to + 1u] = weights_of(((odd_high << 4u) & 0xf0f0f0f0u) | (odd_low & 0x0f0f0f0fu), width, middle);
    w_tile[to + 2u] = weights_of((even_high & 0xf0f0f0f0u) | ((even_low >> 4u) & 0x0f0f0f0fu), width, middle);
    w_tile[to + 3u] = weights_of((odd_high & 0xf0f0f0f0u) | ((odd_low >> 4u) & 0x0f0f0f0fu), width, middle);
}

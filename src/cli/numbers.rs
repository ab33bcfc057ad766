//! Numbers of the command line that mean more than themselves, as llama.cpp's users write them.

use edge_run::internals::precision::Depth;

/// A number of things, 0 for all of them; llama.cpp takes a negative one for 0.
pub fn or_all<N: TryFrom<i64>>(text: &str) -> Result<N, String> {
    let number: i64 = text.parse().map_err(|error| format!("{error}"))?;
    N::try_from(number.max(0)).map_err(|_| "the number is too large".to_string())
}

/// A temperature; llama.cpp takes a negative one for 0.
pub fn temperature(text: &str) -> Result<f32, String> {
    let number: f32 = text.parse().map_err(|error| format!("{error}"))?;
    Ok(if number < 0.0 { 0.0 } else { number })
}

/// Bits that a whole number of slices reads.
pub fn depth(text: &str) -> Result<Depth, String> {
    let number: f32 = text.parse().map_err(|error| format!("{error}"))?;
    Depth::of_bits(number)
        .ok_or_else(|| "2, 4, 6 or 8: only a run reads bits between these, token by token".to_string())
}

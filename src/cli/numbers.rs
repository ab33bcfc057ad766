//! Numbers of the command line that mean more than themselves, as llama.cpp's users write them.

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

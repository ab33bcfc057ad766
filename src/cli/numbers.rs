//! Numbers of the command line that mean more than themselves, as llama.cpp's users write them.

use std::time::Duration;

use bytesize::ByteSize;
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

/// A time of more than 0: seconds, or a number with the unit s, m or h.
pub fn time(text: &str) -> Result<Duration, String> {
    let units = [("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let with_unit = units.iter().find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, *seconds)));
    let (number, unit_s) = with_unit.unwrap_or((text, 1.0));
    let number = number.trim().parse::<f64>().ok();
    let time = number.and_then(|number| Duration::try_from_secs_f64(number * unit_s).ok());
    time.filter(|time| !time.is_zero())
        .ok_or_else(|| "expected a time of more than 0: seconds, or 30s, 5m, 1h".to_string())
}

/// The least bytes that a size without a unit may have: fewer were meant to have one.
const BARE_BYTES_MIN: u64 = 1 << 20;

/// A size: a number with a unit, or many bytes.
pub fn size(text: &str) -> Result<ByteSize, String> {
    let text = text.trim();
    let meant = |size: &ByteSize| size.as_u64() >= BARE_BYTES_MIN || text.parse::<f64>().is_err();
    let size = text.parse::<ByteSize>().ok().filter(meant);
    size.ok_or_else(|| {
        format!("expected a number with a unit, as in 512MiB or 8GiB; without one, at least {BARE_BYTES_MIN} bytes")
    })
}

/// Bits that a whole number of slices reads.
pub fn depth(text: &str) -> Result<Depth, String> {
    let number: f32 = text.parse().map_err(|error| format!("{error}"))?;
    Depth::of_bits(number)
        .ok_or_else(|| "2, 4, 6 or 8: only a run reads bits between these, token by token".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_or_have_a_unit() {
        for (text, seconds) in
            [("90", 90.0), ("0.5", 0.5), ("30s", 30.0), ("5m", 300.0), ("1.5h", 5400.0), ("2 m", 120.0)]
        {
            assert_eq!(time(text), Ok(Duration::from_secs_f64(seconds)), "{text}");
        }
        for text in ["", "0", "0s", "-1", "-1m", "s", "5 minutes", "nan", "inf", "1e-12", "1e300h"] {
            assert!(time(text).is_err_and(|fault| fault.contains("more than 0")), "{text}");
        }
    }

    #[test]
    fn a_size_has_a_unit_unless_it_is_of_many_bytes() {
        for (text, bytes) in
            [("512MiB", 512 << 20), ("8GiB", 8 << 30), ("1.5 GB", 1_500_000_000), ("40b", 40), ("1048576", 1 << 20)]
        {
            assert_eq!(size(text), Ok(ByteSize::b(bytes)), "{text}");
        }
        for text in ["", "40", " 40 ", "0", "-5MiB", "1048575", "40 ducks", "GiB"] {
            assert!(
                size(text).is_err_and(
                    |fault| fault.ends_with("a unit, as in 512MiB or 8GiB; without one, at least 1048576 bytes")
                ),
                "{text}"
            );
        }
    }
}

//! Text out of the bytes of a file that a person or an editor wrote: UTF-8, or UTF-16 by its byte order mark.
//!
//! A mark at the beginning says how the text is encoded and is no part of it, so it is dropped. Windows writes such
//! files: its PowerShell redirects output as UTF-16, and many editors put a mark before UTF-8.

use std::fmt;
use std::io::{self, Read};

const UTF8_MARK: &[u8] = &[0xef, 0xbb, 0xbf];
const UTF16_LITTLE_MARK: &[u8] = &[0xff, 0xfe];
const UTF16_BIG_MARK: &[u8] = &[0xfe, 0xff];
/// It begins as the mark of UTF-16 does.
const UTF32_LITTLE_MARK: &[u8] = &[0xff, 0xfe, 0, 0];
const UTF32_BIG_MARK: &[u8] = &[0, 0, 0xfe, 0xff];

/// What a file of text is expected to hold, for messages.
pub const EXPECTED: &str = "text in UTF-8, or in UTF-16 with a byte order mark";

/// Bytes that are no text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotText {
    /// Where the first wrong byte is, counted from 0 and with the mark.
    pub offset: usize,
    /// What is there, in words.
    pub what: &'static str,
}

impl fmt::Display for NotText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.what, self.offset)
    }
}

/// What `from` gives until its end; `None` where that is more than `bytes_max`, and then no more is read. So a file
/// without end, such as /dev/zero, takes no more memory than that.
pub fn read_at_most(from: impl Read, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    from.take(bytes_max + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= bytes_max).then_some(bytes))
}

/// The text of `bytes`, without the mark that it may begin with.
///
/// Fails where a byte is not of the encoding. A NUL fails too: it is no character of a text, and what has one is a
/// binary file or UTF-16 without its mark, which would reach the model as something else than what its author sees.
pub fn decode(mut bytes: Vec<u8>) -> Result<String, NotText> {
    if bytes.starts_with(UTF32_LITTLE_MARK) || bytes.starts_with(UTF32_BIG_MARK) {
        return Err(NotText { offset: 0, what: "the byte order mark of UTF-32" });
    }
    if bytes.starts_with(UTF16_LITTLE_MARK) {
        return utf16(&bytes, u16::from_le_bytes);
    }
    if bytes.starts_with(UTF16_BIG_MARK) {
        return utf16(&bytes, u16::from_be_bytes);
    }
    let mark = if bytes.starts_with(UTF8_MARK) { UTF8_MARK.len() } else { 0 };
    bytes.drain(..mark);
    let invalid = |offset| NotText { offset: mark + offset, what: "a byte that is not UTF-8" };
    let text = String::from_utf8(bytes).map_err(|error| invalid(error.utf8_error().valid_up_to()))?;
    match text.find('\0') {
        Some(at) => Err(NotText { offset: mark + at, what: "a NUL, as in a binary file or in UTF-16 without a mark," }),
        None => Ok(text),
    }
}

/// The text of UTF-16 with a mark.
fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<String, NotText> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let mut text = String::with_capacity(bytes.len() / 2);
    let mut offset = UTF16_LITTLE_MARK.len();
    for character in char::decode_utf16(pairs[1..].iter().map(|pair| unit(*pair))) {
        match character {
            Ok('\0') => return Err(NotText { offset, what: "a NUL" }),
            Ok(character) => {
                text.push(character);
                offset += 2 * character.len_utf16();
            }
            Err(_) => return Err(NotText { offset, what: "half a surrogate pair of UTF-16" }),
        }
    }
    if rest.is_empty() { Ok(text) } else { Err(NotText { offset, what: "half a unit of UTF-16" }) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(text: &str, mark: &[u8], bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        mark.iter().copied().chain(text.encode_utf16().flat_map(bytes)).collect()
    }

    fn fault(bytes: &[u8]) -> (usize, &'static str) {
        let NotText { offset, what } = decode(bytes.to_vec()).unwrap_err();
        (offset, what)
    }

    #[test]
    fn a_mark_is_no_part_of_the_text() {
        assert_eq!(decode(b"\xef\xbb\xbfHi\r\n".to_vec()).unwrap(), "Hi\r\n");
        for empty in [&b""[..], UTF8_MARK, UTF16_LITTLE_MARK, UTF16_BIG_MARK] {
            assert_eq!(decode(empty.to_vec()).unwrap(), "");
        }
        // Only the one at the beginning is a mark.
        assert_eq!(decode("\u{feff}\u{feff}a\u{feff}".into()).unwrap(), "\u{feff}a\u{feff}");
    }

    #[test]
    fn an_error_names_the_byte() {
        assert_eq!(fault(b"ab\xffc"), (2, "a byte that is not UTF-8"));
        assert_eq!(fault(b"\xef\xbb\xbfab\xe2\x82"), (5, "a byte that is not UTF-8"));
        assert_eq!(fault(b"H\0i\0").0, 1);
        assert_eq!(fault(b"\xff\xfeH\0i"), (4, "half a unit of UTF-16"));
        assert_eq!(fault(b"\xff\xfeH\0\0\xd8i\0"), (4, "half a surrogate pair of UTF-16"));
        assert_eq!(fault(b"\xfe\xff\0H\0\0"), (4, "a NUL"));
        assert_eq!(fault(b"\xff\xfe\0\0H\0\0\0"), (0, "the byte order mark of UTF-32"));
        let message = decode(vec![b'a', 0x80]).unwrap_err().to_string();
        assert_eq!(message, "a byte that is not UTF-8 at byte 1");
    }

    #[test]
    fn what_has_no_end_is_read_no_further_than_its_bound() {
        assert_eq!(read_at_most(&b"abc"[..], 3).unwrap(), Some(b"abc".to_vec()));
        assert_eq!(read_at_most(&b"abcd"[..], 3).unwrap(), None);
        assert_eq!(read_at_most(io::repeat(0), 1 << 20).unwrap(), None);
    }

    proptest! {
        #[test]
        fn every_encoding_gives_the_same_text(text in "[^\0\u{feff}]{0,40}") {
            let mut marked = UTF8_MARK.to_vec();
            marked.extend(text.as_bytes());
            let little = encoded(&text, UTF16_LITTLE_MARK, u16::to_le_bytes);
            let big = encoded(&text, UTF16_BIG_MARK, u16::to_be_bytes);
            for bytes in [text.clone().into_bytes(), marked, little, big] {
                prop_assert_eq!(decode(bytes).unwrap(), text.clone());
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            if let Err(error) = decode(bytes.clone()) {
                prop_assert!(error.offset < bytes.len());
            }
        }
    }
}

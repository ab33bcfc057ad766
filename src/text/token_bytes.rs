//! The bytes that each token of a vocabulary stands for.

use super::TextModel;

/// The mark of a space in the vocabularies of SentencePiece.
const SPACE_MARK: char = '\u{2581}';

/// How a vocabulary writes bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ByteWriting {
    /// Each byte as a character of its own (GPT-2's table).
    Characters,
    /// Text, with a mark for the space and `<0xXX>` for bytes that are no text.
    Pieces,
    /// Text as it is.
    Text,
}

impl TextModel {
    /// The bytes of each of the V tokens, by their ids. Special tokens and ids without a token have none, as they stand
    /// for no text.
    ///
    /// At the beginning of a text, decoders of SentencePiece take away a space that the first token's bytes have.
    pub fn token_bytes(&self) -> Vec<Vec<u8>> {
        let writing = self.byte_writing();
        let added = self.tokenizer.get_added_tokens_decoder();
        let bytes = |id: u32| match (self.is_special(id), added.get(&id)) {
            (true, _) => Vec::new(),
            // Tokens that were added to a vocabulary stand for their text.
            (false, Some(token)) => token.content.as_bytes().to_vec(),
            (false, None) => self.token(id).map_or_else(Vec::new, |token| bytes_of(&token, writing)),
        };
        (0..self.vocab()).map(bytes).collect()
    }

    /// The text of one token for people, with a replacement character where its bytes are not whole characters. A
    /// special token is written as the vocabulary writes it.
    pub fn token_text(&self, id: u32) -> String {
        let token = self.token(id).unwrap_or_default();
        if self.is_special(id) || self.tokenizer.get_added_tokens_decoder().contains_key(&id) {
            return token;
        }
        String::from_utf8_lossy(&bytes_of(&token, self.byte_writing())).into_owned()
    }

    /// Whether the vocabulary writes each byte as a character of its own.
    #[cfg(feature = "grammar")]
    pub(super) fn writes_bytes(&self) -> bool {
        self.byte_writing() == ByteWriting::Characters
    }

    fn byte_writing(&self) -> ByteWriting {
        let decoder = self.tokenizer.get_decoder().and_then(|decoder| serde_json::to_string(decoder).ok());
        match decoder.unwrap_or_default() {
            decoder if decoder.contains(r#""ByteLevel""#) => ByteWriting::Characters,
            decoder if [r#""ByteFallback""#, r#""Metaspace""#].iter().any(|kind| decoder.contains(kind)) => {
                ByteWriting::Pieces
            }
            _ => ByteWriting::Text,
        }
    }
}

fn bytes_of(token: &str, writing: ByteWriting) -> Vec<u8> {
    match writing {
        ByteWriting::Text => token.as_bytes().to_vec(),
        // A character that stands for no byte was not made from bytes.
        ByteWriting::Characters => {
            let bytes: Option<Vec<u8>> = token.chars().map(byte_of).collect();
            bytes.unwrap_or_else(|| token.as_bytes().to_vec())
        }
        ByteWriting::Pieces => match single_byte(token) {
            Some(byte) => vec![byte],
            None => token.replace(SPACE_MARK, " ").into_bytes(),
        },
    }
}

/// The byte that a token `<0xXX>` stands for.
fn single_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// The byte that a character stands for in GPT-2's table: printable characters of Latin-1 for themselves, and those
/// from U+0100 on for the other bytes in order.
fn byte_of(character: char) -> Option<u8> {
    let is_printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match u32::from(character) {
        code @ 0..=0xff => u8::try_from(code).ok().filter(|byte| is_printable(*byte)),
        code => (0..=u8::MAX).filter(|byte| !is_printable(*byte)).nth(code as usize - 0x100),
    }
}

#[cfg(test)]
mod tests {
    use crate::text::tokenizer::test_models::{byte_level, sentence_piece};

    #[test]
    fn bytes_of_tokens_are_those_of_their_text() {
        let all: Vec<[u8; 1]> = (0..=255).map(|byte| [byte]).collect();
        let mut pieces: Vec<&[u8]> = all.iter().map(|byte| byte.as_slice()).collect();
        pieces.push(" the".as_bytes());
        let text = byte_level(&pieces);
        let bytes = text.token_bytes();
        assert!(pieces.iter().zip(&bytes).all(|(piece, bytes)| piece == bytes));
        // The last token is special.
        assert_eq!((bytes.len(), bytes.last().unwrap().len()), (258, 0));
        assert_eq!((text.token_text(256).as_str(), text.token_text(257).as_str()), (" the", "<|end|>"));
        assert_eq!(text.token_text(0xff), "\u{fffd}");
    }

    #[test]
    fn pieces_have_marks_for_spaces_and_bytes() {
        let text = sentence_piece(&["\u{2581}a\u{2581}b", "<0x0A>", "<0xfg>", "<0x0AB>", "é"]);
        let bytes = text.token_bytes();
        let expected: [&[u8]; 6] = [b" a b", b"\n", b"<0xfg>", b"<0x0AB>", "é".as_bytes(), b""];
        assert_eq!(bytes, expected);
    }
}

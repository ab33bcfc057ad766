//! Stop strings: text that ends an answer, wherever it begins in a token and however many tokens it takes.

use crate::error::{Error, Result};

/// Looks for stop strings in a text that comes in pieces. Text that may be the beginning of one is held back until it
/// is known not to be.
#[derive(Debug, Clone, Default)]
pub struct StopMatcher {
    stops: Vec<String>,
    /// What may be the beginning of a stop string.
    held: String,
    found: bool,
}

impl StopMatcher {
    /// Looks for any of `stops`. Fails where one is empty.
    pub fn new(stops: &[String]) -> Result<StopMatcher> {
        if stops.iter().any(String::is_empty) {
            return Err(Error::argument("stop string", "some text", "none"));
        }
        Ok(StopMatcher { stops: stops.to_vec(), ..StopMatcher::default() })
    }

    /// The text that is known to come before any stop string, now that `text` has come. Nothing comes after one.
    pub fn push(&mut self, text: &str) -> String {
        if self.found {
            return String::new();
        }
        self.held += text;
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.found = true;
            let mut before = std::mem::take(&mut self.held);
            before.truncate(at);
            return before;
        }
        let held = self.stops.iter().map(|stop| begun(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - held);
        std::mem::replace(&mut self.held, rest)
    }

    /// Whether a stop string was found.
    pub fn found(&self) -> bool {
        self.found
    }

    /// The text that is still held back when no more comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Bytes of the longest end of `text` that `stop` begins with.
pub(super) fn begun(text: &str, stop: &str) -> usize {
    let ends = stop.char_indices().map(|(at, _)| at).rev();
    ends.into_iter().find(|at| text.ends_with(&stop[..*at])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matcher(stops: &[&str]) -> StopMatcher {
        StopMatcher::new(&stops.iter().map(|stop| stop.to_string()).collect::<Vec<String>>()).unwrap()
    }

    #[test]
    fn a_stop_string_across_pieces_is_not_shown_and_ends_the_text() {
        let mut stops = matcher(&["###", "\nUser:"]);
        let shown = ["a#", "b\nU", "se", "x#", "#", "#c", "d"].map(|piece| stops.push(piece));
        assert_eq!(shown, ["a", "#b", "", "\nUsex", "", "", ""]);
        assert!(stops.found() && stops.finish().is_empty());
    }

    #[test]
    fn what_only_began_is_shown_at_the_end() {
        let mut stops = matcher(&["###"]);
        assert_eq!([stops.push("a#"), stops.push("#")], ["a", ""]);
        assert_eq!((stops.finish().as_str(), stops.found()), ("##", false));
        assert!(StopMatcher::new(&["".into()]).is_err());
        assert_eq!(matcher(&[]).push("a#"), "a#");
    }

    proptest! {
        #[test]
        fn any_cut_shows_what_comes_before_the_first_stop_string(
            pieces in prop::collection::vec("[abé]{0,4}", 0..12),
            stops in prop::collection::vec("[abé]{1,4}", 0..3),
        ) {
            let mut matcher = StopMatcher::new(&stops).unwrap();
            let mut shown: String = pieces.iter().map(|piece| matcher.push(piece)).collect();
            shown += &matcher.finish();
            let text = pieces.concat();
            let first = stops.iter().filter_map(|stop| text.find(stop.as_str())).min();
            // Which of two overlapping stop strings is seen first depends on the pieces, and it is cut at that one.
            match first {
                None => prop_assert_eq!(shown, text),
                Some(at) => {
                    prop_assert!(matcher.found());
                    prop_assert!(shown.len() >= at && text.starts_with(&shown));
                    prop_assert!(stops.iter().any(|stop| text[shown.len()..].starts_with(stop.as_str())));
                    prop_assert!(stops.len() > 1 || shown.len() == at);
                }
            }
        }
    }
}

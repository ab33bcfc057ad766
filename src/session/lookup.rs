//! Guesses of the tokens that follow, by what followed the same tokens before: prompt lookup (Saxena 2023; n-gram
//! drafts). An answer that repeats parts of its context, as an edit of a text does, is then generated several tokens at
//! a time.

use std::collections::HashMap;

/// Tokens that must have occurred before for a guess: where guesses are right, at first, and where they were wrong.
const GRAM: usize = 3;
const USUAL_GRAM: usize = 5;
const CAREFUL_GRAM: usize = 8;
/// Guesses at once: as many as products take beside the token before them, and fewer where few are right.
const MOST: usize = 7;
const FEW: usize = 3;
/// Right guesses a time from which on as many as can be are made, and below which they are made carefully.
const MANY_RIGHT: f32 = 2.5;
const FEW_RIGHT: f32 = 1.0;
/// How much a time counts in the mean of right guesses, and by how much a token raises it that was not guessed.
const WEIGHT: f32 = 0.4;
const RECOVERY: f32 = 0.01;

/// The tokens of a conversation, by what stands where.
pub(super) struct Lookup {
    tokens: Vec<u32>,
    /// Where the tokens after the last occurrence of each [`GRAM`] tokens begin, but for the very last ones.
    after: HashMap<[u32; GRAM], usize>,
    /// How many guesses were right at a time, lately.
    right: f32,
    /// Guesses made, and how many of them were right.
    pub guessed: usize,
    pub accepted: usize,
}

impl Lookup {
    /// Over these tokens.
    pub fn new(tokens: Vec<u32>) -> Lookup {
        let mut lookup =
            Lookup { tokens: Vec::new(), after: HashMap::new(), right: FEW_RIGHT, guessed: 0, accepted: 0 };
        tokens.into_iter().for_each(|token| lookup.push(token));
        lookup
    }

    /// Appends a token.
    pub fn push(&mut self, token: u32) {
        if let Some(last) = self.tokens.last_chunk::<GRAM>() {
            self.after.insert(*last, self.tokens.len());
        }
        self.tokens.push(token);
        self.right = (self.right + RECOVERY).min(FEW_RIGHT.max(self.right));
    }

    /// Guesses of the tokens that follow, `room` at most; none where what is there did not occur before. The guesses
    /// have none of the tokens that `is_end`.
    pub fn guesses(&self, room: usize, is_end: impl Fn(u32) -> bool) -> Vec<u32> {
        let Some(after) = self.tokens.last_chunk().and_then(|last| self.after.get(last)) else { return Vec::new() };
        let same = |(a, b): &(&u32, &u32)| a == b;
        let alike = self.tokens[..*after]
            .iter()
            .rev()
            .zip(self.tokens.iter().rev())
            .take(CAREFUL_GRAM)
            .take_while(same)
            .count();
        let (gram, most) = match self.right {
            right if right < FEW_RIGHT => (CAREFUL_GRAM, FEW),
            right if right < MANY_RIGHT => (USUAL_GRAM, FEW),
            _ => (GRAM, MOST),
        };
        if alike < gram {
            return Vec::new();
        }
        let mut guesses: Vec<u32> = Vec::new();
        for at in *after..*after + most.min(room) {
            // Behind what is there, its guesses follow.
            let token = self.tokens.get(at).copied().unwrap_or_else(|| guesses[at - self.tokens.len()]);
            if is_end(token) {
                break;
            }
            guesses.push(token);
        }
        guesses
    }

    /// Takes note that of so many guesses so many were right.
    pub fn note(&mut self, guessed: usize, accepted: usize) {
        self.guessed += guessed;
        self.accepted += accepted;
        self.right += WEIGHT * (accepted as f32 - self.right);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: fn(u32) -> bool = |_| false;

    /// Of a conversation whose guesses were right.
    fn bold(tokens: &[u32]) -> Lookup {
        let mut lookup = Lookup::new(tokens.to_vec());
        (0..4).for_each(|_| lookup.note(7, 7));
        lookup
    }

    #[test]
    fn what_followed_the_last_occurrence_is_guessed() {
        let lookup = bold(&[9, 1, 2, 3, 4, 5, 7, 1, 2, 3, 6, 8, 1, 2, 3]);
        assert_eq!(lookup.guesses(7, NEVER), [6, 8, 1, 2, 3, 6, 8]);
        assert_eq!(lookup.guesses(2, NEVER), [6, 8]);
        assert_eq!(lookup.guesses(7, |id| id == 8), [6]);
        assert!(bold(&[1, 2, 3, 4, 2, 3]).guesses(7, NEVER).is_empty(), "only two tokens alike");
        assert!(bold(&[1, 2]).guesses(7, NEVER).is_empty());
    }

    #[test]
    fn a_token_that_repeats_goes_on() {
        assert_eq!(bold(&[5; 6]).guesses(7, NEVER), [5; 7]);
    }

    #[test]
    fn wrong_guesses_make_it_careful_and_right_ones_bold() {
        let alike = |count: u32| (0..20).chain(20 - count - 3..17).collect::<Vec<u32>>();
        let first = |count: u32| Lookup::new(alike(count)).guesses(7, NEVER);
        assert_eq!((first(4), first(5)), (vec![], vec![17, 18, 19]));
        let mut lookup = Lookup::new(alike(5));
        lookup.note(3, 0);
        assert!(lookup.guesses(7, NEVER).is_empty());
        let mut long = Lookup::new(alike(8));
        long.note(3, 0);
        assert_eq!(long.guesses(7, NEVER).len(), FEW);
        (0..3).for_each(|_| long.note(7, 7));
        assert_eq!(long.guesses(7, NEVER).len(), MOST);
        assert_eq!((lookup.guessed, long.guessed, long.accepted), (3, 24, 21));
        (0..60).for_each(|token| lookup.push(100 + token));
        alike(5).into_iter().for_each(|token| lookup.push(token));
        assert_eq!(lookup.guesses(7, NEVER).len(), FEW, "it tries again after a while");
    }
}

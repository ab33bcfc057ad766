//! The memory of transients, which all recordings share, as only one of them runs at a time.
//!
//! A recording's longest transient has the first block, the next one the second, and so on. So all recordings together
//! take as much as the longest transients of each place, in whatever order they come and go.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};

use super::memory::Owned;
use crate::error::Result;

/// Blocks for the transients of all recordings that are there.
pub(super) struct WorkSpace {
    blocks: Vec<Owned>,
    /// The lengths of each recording's transients, the longest first.
    wanted: Vec<Weak<[u64]>>,
    counter: Arc<AtomicU64>,
}

impl WorkSpace {
    /// Nothing, and a counter of its bytes.
    pub fn new(counter: Arc<AtomicU64>) -> WorkSpace {
        WorkSpace { blocks: Vec::new(), wanted: Vec::new(), counter }
    }

    /// Makes room for transients of these lengths, the longest first, which stays as long as what is returned. Fails
    /// where there is no memory for them.
    pub fn reserve(&mut self, lengths: Vec<u64>) -> Result<Arc<[u64]>> {
        debug_assert!(lengths.is_sorted_by(|longer, shorter| longer >= shorter));
        let lengths: Arc<[u64]> = lengths.into();
        self.wanted.push(Arc::downgrade(&lengths));
        self.fit().map(|()| lengths)
    }

    /// The first blocks, for a recording with so many transients: each is as long as its transient, or longer. What
    /// only recordings took that are gone is let go of first.
    pub fn lend(&mut self, count: usize) -> Result<Vec<Owned>> {
        self.fit()?;
        Ok(self.blocks.drain(..count).collect())
    }

    /// Takes back what was lent.
    pub fn give_back(&mut self, lent: Vec<Owned>) {
        self.blocks.splice(..0, lent);
    }

    /// Makes each block as long as the longest transient that has it.
    fn fit(&mut self) -> Result<()> {
        let all: Vec<Arc<[u64]>> = self.wanted.iter().filter_map(Weak::upgrade).collect();
        self.wanted.retain(|lengths| lengths.strong_count() > 0);
        let most = all.iter().map(|lengths| lengths.len()).max().unwrap_or(0);
        self.blocks.truncate(most);
        for place in 0..most {
            let bytes = all.iter().filter_map(|lengths| lengths.get(place)).max().copied().unwrap_or(0);
            if self.blocks.get(place).is_some_and(|block| block.is_for(bytes)) {
                continue;
            }
            let block = |bytes| Owned::zeros("the activations of a step", bytes, &self.counter);
            match self.blocks.get_mut(place) {
                // The old one goes first.
                Some(old) => {
                    *old = block(0)?;
                    *old = block(bytes)?;
                }
                None => self.blocks.push(block(bytes)?),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn recordings_take_the_longest_transients_of_each_place_in_any_order() {
        let all: [&[u64]; 3] = [&[100, 40, 8], &[60, 60], &[100, 100]];
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let counter: Arc<AtomicU64> = Arc::default();
            let bytes = || counter.load(Ordering::Relaxed);
            let mut space = WorkSpace::new(Arc::clone(&counter));
            let mut kept: Vec<_> = order.iter().map(|at| space.reserve(all[*at].to_vec()).unwrap()).collect();
            assert_eq!(bytes(), 100 + 100 + 8, "{order:?}");
            let lent = space.lend(2).unwrap();
            assert!(lent.iter().all(|block| block.is_for(100)));
            space.give_back(lent);
            assert!(space.lend(3).unwrap()[2].is_for(8), "the first blocks are the first again");
            // What was lent and lost is made again.
            kept.retain(|lengths| **lengths == *all[1]);
            assert_eq!(space.lend(2).unwrap().len(), 2);
            assert_eq!(space.reserve(Vec::new()).unwrap().len(), 0);
            assert_eq!(bytes(), 60 + 60, "{order:?}");
            drop(kept);
            drop(space.reserve(Vec::new()));
            assert_eq!(bytes(), 0, "{order:?}");
        }
    }
}

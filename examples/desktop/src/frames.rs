//! The times between frames that follow each other at once: from where the window begins to lay one out to where it
//! begins the next one. Laying out, drawing, handing the picture to the screen, and waiting for it are all in it, and
//! input that comes meanwhile waits as long.

use std::time::Instant;

/// Frames that a graph shows.
const SHOWN: usize = 240;

/// Notes when frames begin.
#[derive(Default)]
pub struct FrameClock {
    last: Option<Instant>,
    /// Milliseconds between two frames, of the last ones.
    pub recent: Vec<f32>,
    /// The same of all frames that followed each other at once.
    animated: Vec<f32>,
}

impl FrameClock {
    /// A frame begins. `is_animated` says that it was asked for as soon as the one before was drawn, so that the time
    /// between them is what the window took.
    pub fn note(&mut self, is_animated: bool) {
        let now = Instant::now();
        let last = self.last.replace(now);
        if let (Some(last), true) = (last, is_animated) {
            let ms = (now - last).as_secs_f32() * 1e3;
            self.animated.push(ms);
            self.recent.push(ms);
            if self.recent.len() > SHOWN {
                self.recent.remove(0);
            }
        }
    }

    /// The time below which this share of the frames stayed, in milliseconds.
    pub fn quantile(&self, share: f32) -> Option<f32> {
        let mut sorted = self.animated.clone();
        sorted.sort_by(f32::total_cmp);
        let at = (share * sorted.len() as f32) as usize;
        sorted.get(at.min(sorted.len().saturating_sub(1))).copied()
    }

    /// Frames that followed each other at once.
    pub fn count(&self) -> usize {
        self.animated.len()
    }
}

//! What an answer tells next.

use crate::session::StopReason;

/// What comes next.
pub(super) enum AnswerState {
    /// A step runs next.
    Step,
    /// The plan that was set by hand is told next.
    Changed,
    /// The summary is told next.
    Done(StopReason),
    /// All was told.
    Over,
}

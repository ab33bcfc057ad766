//! Why an answer ended.

/// Why a generation ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StopReason {
    /// The model ended its turn.
    #[default]
    EndOfTurn,
    /// The number of tokens asked for was reached.
    Length,
    /// The context is full.
    ContextFull,
    /// A stop string came: see [`Session::set_stop_strings`](super::Session::set_stop_strings).
    StopString,
    /// What the session's constraint asks for is complete: see
    /// [`Session::set_constraint`](super::Session::set_constraint).
    Complete,
    /// The caller stopped it, or the session's token did.
    Stopped,
}

impl std::fmt::Display for StopReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            StopReason::EndOfTurn => "end of turn",
            StopReason::Length => "length reached",
            StopReason::ContextFull => "context full",
            StopReason::StopString => "stop string",
            StopReason::Complete => "complete",
            StopReason::Stopped => "stopped",
        })
    }
}

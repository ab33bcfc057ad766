//! What reading fewer bits costs: perplexity of a text, divergence from the unquantized model, other tokens than all
//! bits would choose, and the accuracy of zero-shot tasks.

mod agreement;
mod detail;
mod divergence;
mod fidelity;
mod perplexity;
mod runs;
mod task_file;
mod zero_shot;

pub use agreement::{AgreementReport, DRAFTS, DraftFigures, agreement, deepest_choices};
pub use detail::{Detail, SiteBits};
pub use divergence::{Divergence, KlFigures, divergence};
pub use fidelity::{KlReport, TextKl, check_reference, fidelity};
pub use perplexity::{EvalWindow, PerplexityReport, default_window, perplexity};
pub use runs::{Depths, EvalRun, runs};
pub use task_file::{ChoiceExample, Continuation, Examples, TaskFile};
pub use zero_shot::{Figures, Task, TaskReport, zero_shot};

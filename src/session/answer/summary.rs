//! What is told at the end of an answer.

use super::Answer;
use crate::session::{StopReason, Summary};
use crate::shape::Site;

impl Answer<'_> {
    pub(super) fn summary(&mut self, stop: StopReason) -> Summary {
        let text_left = self.rest();
        let model = self.session.sequence.model();
        let elapsed = self.start.elapsed().as_secs_f64();
        let prompt_s = *self.prompt_s.get_or_insert(elapsed);
        let [prompt, answer] = &self.read;
        let mut read = prompt.clone();
        read.add_all(answer);
        Summary {
            stop,
            prompt_tokens: self.prompt_tokens,
            generated_tokens: self.generated,
            forced_tokens: self.forced_tokens,
            text_left,
            prompt_s,
            generate_s: elapsed - prompt_s,
            bits: read.mean(),
            prompt_bits: prompt.mean(),
            answer_bits: (answer.tokens() > 0).then(|| answer.mean()),
            bits_by_site: Site::ALL.map(|site| (site.name(), read.of_site(site))),
            device_bytes: model.allocated_bytes(),
            slices: model.slices(),
            guessed_tokens: self.guessing.lookup.guessed,
            accepted_tokens: self.guessing.lookup.accepted,
        }
    }
}

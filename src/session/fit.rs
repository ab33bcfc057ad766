//! What of a long conversation stays in the context: the oldest turns leave, and what sets the assistant up stays.

use std::ops::Range;

use super::Session;
use crate::error::{Error, Result};
use crate::text::{Message, Role};

/// Which messages of a conversation leave so that it fits: a range of them, empty where all fit. `tokens` counts the
/// tokens of the messages that stay when a range of them leaves.
///
/// A turn is a message of the user and all up to the next one. Where all messages have more than `most` tokens, the
/// oldest turns leave, until no more than `goal` are left, so that not every turn has to make room anew. Messages
/// before the first turn stay, the system's among them, and so does the last turn, even where it does not fit.
///
/// Fails where `tokens` does.
pub fn leaving(
    messages: &[Message],
    (most, goal): (usize, usize),
    tokens: &mut dyn FnMut(&Range<usize>) -> Result<usize>,
) -> Result<Range<usize>> {
    let turns: Vec<usize> = (0..messages.len()).filter(|at| messages[*at].role == Role::User).collect();
    let Some(first) = turns.first() else { return Ok(0..0) };
    let all = *first..*first;
    if turns.len() == 1 || tokens(&all)? <= most {
        return Ok(all);
    }
    // The more turns leave, the fewer tokens are left, so that the fewest turns are found by halving.
    let (mut kept, mut enough) = (0, turns.len() - 1);
    while kept + 1 < enough {
        let middle = kept.midpoint(enough);
        if tokens(&(*first..turns[middle]))? <= goal { enough = middle } else { kept = middle }
    }
    Ok(*first..turns[enough])
}

impl Session {
    /// Drops the oldest turns of a conversation where it and an answer of `answer_tokens` do not fit in the context;
    /// how many messages were dropped. The messages before the first one of the user stay, the system's among them, and
    /// so do the last one of the user and what follows it. When turns are dropped, so many are that half of the context
    /// is free: what is left runs again from where it differs, and that should be rare.
    ///
    /// Fails where the model has no chat template, where that refuses the conversation or what is left of it, and where
    /// what is left has more tokens than the context holds; the conversation is then as it was. Where no turn can
    /// leave, none does, and it is [`Session::chat`] that fails.
    pub fn drop_old_turns(&self, messages: &mut Vec<Message>, answer_tokens: usize) -> Result<usize> {
        let context = self.model().context() as usize;
        let most = context.saturating_sub(answer_tokens);
        let mut count = |leaving: &Range<usize>| {
            let stays = |(at, message): (usize, &Message)| (!leaving.contains(&at)).then(|| message.clone());
            let stays: Vec<Message> = messages.iter().enumerate().filter_map(stays).collect();
            match self.text().encode_chat_with_tools(&stays, &self.choices.tools)? {
                Some(ids) => Ok(ids.len()),
                None => Err(Error::argument("messages", "a model with a chat template", "a model without one")),
            }
        };
        let leaving = leaving(messages, (most, most.min(context / 2)), &mut count)?;
        if !leaving.is_empty() {
            let tokens = count(&leaving)?;
            if tokens > context {
                let trained = self.model().shape().max_context as usize;
                return Err(Error::PromptTooLong { tokens, context, trained });
            }
        }
        Ok(messages.drain(leaving).count())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A conversation by its roles, each message with its tokens as text.
    fn conversation(roles: &[(Role, usize)]) -> Vec<Message> {
        roles.iter().map(|(role, tokens)| Message::new(*role, tokens.to_string())).collect()
    }

    fn tokens(messages: &[Message], leaving: &Range<usize>) -> usize {
        let stays = messages.iter().enumerate().filter(|(at, _)| !leaving.contains(at));
        stays.map(|(_, message)| message.content.parse::<usize>().unwrap()).sum()
    }

    fn leave(messages: &[Message], most: usize, goal: usize) -> Range<usize> {
        leaving(messages, (most, goal), &mut |leaving| Ok(tokens(messages, leaving))).unwrap()
    }

    #[test]
    fn the_oldest_turns_leave_and_the_system_s_message_stays() {
        use Role::{Assistant, System, User};
        let roles = [(System, 10), (User, 20), (Assistant, 20), (User, 30), (Assistant, 30), (User, 5)];
        let messages = conversation(&roles);
        assert_eq!(leave(&messages, 115, 50), 1..1, "it fits");
        assert_eq!(leave(&messages, 114, 75), 1..3, "one turn is enough");
        assert_eq!(leave(&messages, 114, 74), 1..5);
        assert_eq!(leave(&messages, 3, 3), 1..5, "the last turn stays where it does not fit");
        assert_eq!(leave(&messages[1..], 104, 65), 0..2, "without a system's message");
        assert_eq!(leave(&[], 0, 0), 0..0);
        let failing = leaving(&messages, (1, 1), &mut |_| Err(Error::Stopped("counting")));
        assert!(failing.is_err());
    }

    proptest! {
        #[test]
        fn what_stays_fits_and_no_turn_leaves_in_vain(
            said in prop::collection::vec((0usize..3, 1usize..100), 0..20),
            most in 0usize..600,
            goal in 0usize..600,
        ) {
            let goal = goal.min(most);
            let role = |role| [Role::System, Role::User, Role::Assistant][role];
            let messages = conversation(&said.iter().map(|(r, tokens)| (role(*r), *tokens)).collect::<Vec<_>>());
            let gone = leave(&messages, most, goal);
            let turns: Vec<usize> = (0..messages.len()).filter(|at| messages[*at].role == Role::User).collect();
            // What sets the assistant up stays, and the last turn, and all from one turn on.
            prop_assert!(gone.start == turns.first().copied().unwrap_or(0));
            prop_assert!(gone.is_empty() || turns.contains(&gone.end));
            let left = tokens(&messages, &gone);
            if tokens(&messages, &(0..0)) <= most {
                prop_assert!(gone.is_empty());
            } else if turns.len() > 1 {
                let last = *turns.last().unwrap();
                prop_assert!(left <= goal || gone.end == last, "{} are left", left);
                // One turn fewer would not do.
                let fewer = turns.iter().rev().find(|turn| **turn < gone.end).unwrap();
                prop_assert!(gone.end == turns[1] || tokens(&messages, &(gone.start..*fewer)) > goal);
            }
        }
    }
}

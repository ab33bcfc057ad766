//! Conversations: rendered through the chat template, and encoded so that nothing said becomes a control token.

use std::path::Path;

use super::message::Conversation;
use super::plain_text::PlainText;
use super::template::ContentForm;
use super::tokenizer::THIS_TEXT;
use super::tokenizer_file::unwinding;
use super::{ChatTemplate, ChatTemplates, KnownPrompt, Message, TextModel, Tool, ToolCallFormat};
use crate::error::{Error, Result};

/// Messages of fewer bytes may be found in a prompt by chance.
const TELLING_BYTES: usize = 16;

/// Bytes of a text that are looked for first.
const BEGINNING_BYTES: usize = 64;

/// Characters that no text has a use for.
const PRIVATE: [std::ops::RangeInclusive<char>; 2] = ['\u{e000}'..='\u{f8ff}', '\u{f0000}'..='\u{ffffd}'];

impl TextModel {
    /// Whether the model has a chat template, or one was chosen.
    pub fn has_chat_template(&self) -> bool {
        !self.templates.is_empty()
    }

    /// The model's chat templates.
    pub fn chat_templates(&self) -> &ChatTemplates {
        &self.templates
    }

    /// Uses another chat template from now on: that in the file `file_or_name` or, where there is no such file, the
    /// model's own of that name. Fails where there is neither, and where the file is blank or no text.
    pub fn choose_chat_template(&mut self, file_or_name: &str) -> Result<()> {
        self.templates.choose(file_or_name)
    }

    /// A sentence for each chat template that cannot be compiled, and so renders no conversation. Compiles all of them.
    pub fn chat_template_faults(&self) -> Vec<String> {
        self.templates.faults()
    }

    /// The prompt that `messages` make, ready for the assistant's turn, if the model has a chat template. Its special
    /// tokens are in the text, as are those that a message has in it: for a prompt to run, use
    /// [`encode_chat`](TextModel::encode_chat).
    ///
    /// Fails with [`Error::Template`] where the template refuses the conversation, cannot be compiled, or leaves out
    /// what a message says.
    pub fn render_chat(&self, messages: &[Message]) -> Result<Option<String>> {
        self.render_chat_with_tools(messages, &[])
    }

    /// [`render_chat`](TextModel::render_chat), of a model that may call `tools`. Fails too where the template leaves
    /// them out, or a call of one.
    pub fn render_chat_with_tools(&self, messages: &[Message], tools: &[Tool]) -> Result<Option<String>> {
        let Some(template) = self.template()? else { return Ok(None) };
        self.render(template, &Conversation::new(messages, tools)).map(|(_, prompt)| Some(prompt))
    }

    /// Token ids of the prompt that `messages` make, ready for the assistant's turn, if the model has a chat template.
    /// Special tokens of the template are tokens; special tokens that a message has in it are text like any other, so
    /// that no message can begin or end a turn.
    ///
    /// Fails as [`render_chat`](TextModel::render_chat) does.
    pub fn encode_chat(&self, messages: &[Message]) -> Result<Option<Vec<u32>>> {
        self.encode_chat_with_tools(messages, &[])
    }

    /// [`encode_chat`](TextModel::encode_chat), of a model that may call `tools`. Fails as
    /// [`render_chat_with_tools`](TextModel::render_chat_with_tools) does.
    pub fn encode_chat_with_tools(&self, messages: &[Message], tools: &[Tool]) -> Result<Option<Vec<u32>>> {
        self.encode_chat_after(messages, tools, &mut KnownPrompt::default())
    }

    /// The same of a conversation that may begin like the one before it, of which `known` tells, and then of this one.
    pub(crate) fn encode_chat_after(
        &self,
        messages: &[Message],
        tools: &[Tool],
        known: &mut KnownPrompt,
    ) -> Result<Option<Vec<u32>>> {
        let Some(template) = self.template()? else { return Ok(None) };
        let chat = Conversation::new(messages, tools);
        let (form, prompt) = self.render(template, &chat)?;
        let plain = self.plain_text();
        if !chat.has_text(&|text| !plain.marks(text).is_empty()) {
            return self.encode_after(prompt, plain, known).map(Some);
        }
        let mark = unused(template, &chat)?;
        let marked = chat.map(&|text| marked(text, &plain.marks(text), mark));
        let (bos, eos) = self.template_texts();
        let (text, places) = unmarked(&template.render_as(form, &marked, &bos, &eos)?, mark);
        let ids = |found: Vec<(u32, std::ops::Range<usize>)>| found.into_iter().map(|(id, _)| id).collect::<Vec<u32>>();
        // A template that looked for a token in a message did not find it. Where it would have taken it out, all
        // control tokens that are left are its own.
        if text != prompt && ids(plain.controls(&prompt, &[])) == ids(plain.controls(&text, &places)) {
            return self.encode_after(prompt, plain, known).map(Some);
        }
        let damaged = |got: String| Error::damaged(&self.file, "tokenizer", "one that takes any text", got);
        let encoded = unwinding(|| plain.encode(&text, &places).map_err(|fault| fault.to_string()));
        let ids = encoded.ok_or_else(|| damaged("one that its library fails on".into()))?.map_err(damaged)?;
        self.within_vocabulary(THIS_TEXT, ids).map(Some)
    }

    /// Token ids of a prompt without marks.
    fn encode_after(&self, prompt: String, plain: &PlainText, known: &mut KnownPrompt) -> Result<Vec<u32>> {
        let (bytes, count) = known.beginning_of(&prompt, plain);
        let ids = [&known.ids[..count], &self.encode(&prompt[bytes..], false)?].concat();
        *known = KnownPrompt { text: prompt, ids };
        Ok(known.ids.clone())
    }

    /// How the model writes calls of tools, by its chat template; none where it has none, and where it is not known.
    pub fn tool_call_format(&self) -> Option<ToolCallFormat> {
        let template = self.template().ok().flatten()?;
        ToolCallFormat::of_template(template.source())
    }

    fn template(&self) -> Result<Option<&ChatTemplate>> {
        self.templates.chosen(self.file.parent().unwrap_or(Path::new("")))
    }

    /// The texts of the tokens that begin and end a text, for templates.
    fn template_texts(&self) -> (String, String) {
        (self.bos_text(), self.eos_text())
    }

    /// The prompt of `chat`, with all that is said in it, and the form in which the template takes contents.
    fn render(&self, template: &ChatTemplate, chat: &Conversation) -> Result<(ContentForm, String)> {
        let (bos, eos) = self.template_texts();
        let render = |form, chat: &Conversation| template.render_as(form, chat, &bos, &eos);
        let dropped = |form, prompt: &str| dropped(prompt, chat, &|other| render(form, other));
        let (fault, lost) = match render(ContentForm::Text, chat) {
            Ok(prompt) => match dropped(ContentForm::Text, &prompt) {
                None => return Ok((ContentForm::Text, prompt)),
                lost => (None, lost),
            },
            Err(fault) => (Some(fault), None),
        };
        // Templates of models that take pictures too may know nothing but lists of parts.
        if let Ok(prompt) = render(ContentForm::Parts, chat)
            && dropped(ContentForm::Parts, &prompt).is_none()
        {
            return Ok((ContentForm::Parts, prompt));
        }
        Err(fault.unwrap_or_else(|| {
            let lost = lost.unwrap_or_default();
            template.error(None, format!("the template drops {lost} is not in the prompt"))
        }))
    }
}

/// What `prompt`, which `render` made of `chat`, says nothing of, if there is anything: the first such message, the
/// calls of tools, or the tools.
fn dropped(prompt: &str, chat: &Conversation, render: &dyn Fn(&Conversation) -> Result<String>) -> Option<String> {
    let calls = || chat.messages.iter().flat_map(|message| &message.tool_calls);
    if let Some(call) = calls().find(|call| !prompt.contains(&call.name)) {
        return Some(format!("calls of tools: `{}`", call.name));
    }
    if let Some(tool) = chat.tools.iter().find(|tool| !prompt.contains(tool.name())) {
        return Some(format!("the tools: `{}`", tool.name()));
    }
    let of = |messages: &[Message]| render(&Conversation::new(messages, &chat.tools));
    let message = dropped_message(prompt, &chat.messages, &of)?;
    Some(format!("the {} message: its text", message.role))
}

/// The first message of which `prompt`, which `render` made of `messages`, says nothing.
fn dropped_message<'a>(
    prompt: &str,
    messages: &'a [Message],
    render: &dyn Fn(&[Message]) -> Result<String>,
) -> Option<&'a Message> {
    let doubtful = |message: &Message| {
        let text = message.content.trim();
        !text.is_empty() && (text.len() < TELLING_BYTES || !has(prompt, text))
    };
    let mut doubtful: Vec<usize> = (0..messages.len()).filter(|i| doubtful(&messages[*i])).collect();
    if doubtful.is_empty() {
        return None;
    }
    // Words that no prompt has by chance are found in it, or the template changes what is said.
    let mut others = messages.to_vec();
    doubtful.iter().for_each(|i| others[*i].content = word(*i));
    if let Ok(other) = render(&others) {
        doubtful.retain(|i| !other.contains(&word(*i)));
    }
    // What is said in other letters makes another prompt, if the template looks at it at all.
    let unseen = |i: usize| {
        let mut others = messages.to_vec();
        others[i].content = in_other_letters(&messages[i].content);
        render(&others).is_ok_and(|other| other == prompt)
    };
    doubtful.into_iter().find(|i| unseen(*i)).map(|i| &messages[i])
}

/// Whether `prompt` has `text` in it. A search for a long text prepares itself for all of it, so where the beginning is
/// found, the rest is compared there first.
fn has(prompt: &str, text: &str) -> bool {
    let beginning = &text[..text.floor_char_boundary(BEGINNING_BYTES)];
    prompt.find(beginning).is_some_and(|at| prompt[at..].starts_with(text) || prompt.contains(text))
}

/// A word for the message `i`.
fn word(i: usize) -> String {
    format!("Zq{i}xkvw")
}

/// A text of the same shape.
fn in_other_letters(text: &str) -> String {
    let other = |c: char| match c {
        c if c.is_whitespace() => c,
        'q' => 'z',
        _ => 'q',
    };
    text.chars().map(other).collect()
}

/// A character that neither the template nor the conversation has.
fn unused(template: &ChatTemplate, chat: &Conversation) -> Result<char> {
    let has = |text: &str, c: char| text.contains(c) || text.contains(&escaped(c));
    let taken = |c: &char| has(template.source(), *c) || chat.has_text(&|text| has(text, *c));
    let unused = PRIVATE.into_iter().flatten().find(|c| !taken(c));
    unused.ok_or_else(|| Error::argument("messages", "fewer private-use characters", "every one of them"))
}

/// The character as JSON in ASCII and Python's `repr` write it.
fn escaped(c: char) -> String {
    c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect()
}

/// The text with `mark` at the bytes `at`.
fn marked(text: &str, at: &[usize], mark: char) -> String {
    let mut marked = text.to_string();
    at.iter().rev().for_each(|at| marked.insert(*at, mark));
    marked
}

/// The text without `mark`, and where it stood.
fn unmarked(text: &str, mark: char) -> (String, Vec<usize>) {
    let text = text.replace(&escaped(mark), mark.encode_utf8(&mut [0; 4]));
    let mut out = String::with_capacity(text.len());
    let mut places = Vec::new();
    for (i, piece) in text.split(mark).enumerate() {
        if i > 0 {
            places.push(out.len());
        }
        out.push_str(piece);
    }
    (out, places)
}

#[cfg(test)]
mod tests;

//! What is said in a conversation, and the tools that its model may call.

use serde::{Deserialize, Serialize};

use super::{Tool, ToolCall};

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Role {
    /// Whoever set the assistant up.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// A tool that the model called.
    Tool,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        })
    }
}

/// A message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
    /// The tools that the assistant called beside what it said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Of a tool's result: the call that it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// Of a tool's result: the tool's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Message {
    /// A message of `role`.
    pub fn new(role: Role, content: impl Into<String>) -> Message {
        Message { role, content: content.into(), tool_calls: Vec::new(), tool_call_id: None, name: None }
    }

    /// What whoever set the assistant up says.
    pub fn system(content: impl Into<String>) -> Message {
        Message::new(Role::System, content)
    }

    /// What the person says.
    pub fn user(content: impl Into<String>) -> Message {
        Message::new(Role::User, content)
    }

    /// What the model said.
    pub fn assistant(content: impl Into<String>) -> Message {
        Message::new(Role::Assistant, content)
    }

    /// What the model said, and the tools that it called.
    pub fn assistant_with_calls(content: impl Into<String>, calls: Vec<ToolCall>) -> Message {
        Message { tool_calls: calls, ..Message::assistant(content) }
    }

    /// What a tool answers to a call.
    pub fn tool_result(call: &ToolCall, content: impl Into<String>) -> Message {
        let (id, name) = (Some(call.id.clone()), Some(call.name.clone()));
        Message { tool_call_id: id, name, ..Message::new(Role::Tool, content) }
    }

    /// The message with each text in it changed.
    fn map(&self, change: &dyn Fn(&str) -> String) -> Message {
        Message {
            role: self.role,
            content: change(&self.content),
            tool_calls: self.tool_calls.iter().map(|call| call.map(change)).collect(),
            tool_call_id: self.tool_call_id.as_deref().map(change),
            name: self.name.as_deref().map(change),
        }
    }
}

/// What a template makes a prompt of.
#[derive(Debug, Clone, PartialEq)]
pub struct Conversation {
    /// What is said.
    pub messages: Vec<Message>,
    /// What the model may call.
    pub tools: Vec<Tool>,
}

impl Conversation {
    /// The conversation of these messages.
    pub fn new(messages: &[Message], tools: &[Tool]) -> Conversation {
        Conversation { messages: messages.to_vec(), tools: tools.to_vec() }
    }

    /// The conversation with each text in it changed: what is said, and what names and describes tools.
    pub fn map(&self, change: &dyn Fn(&str) -> String) -> Conversation {
        Conversation {
            messages: self.messages.iter().map(|message| message.map(change)).collect(),
            tools: self.tools.iter().map(|tool| tool.map(change)).collect(),
        }
    }

    /// Whether any text in it is one that `holds`.
    pub fn has_text(&self, holds: &dyn Fn(&str) -> bool) -> bool {
        let found = std::cell::Cell::new(false);
        self.map(&|text| {
            found.set(found.get() || holds(text));
            String::new()
        });
        found.get()
    }

    /// Bytes of all texts in it.
    pub fn bytes(&self) -> usize {
        let bytes = std::cell::Cell::new(0);
        self.map(&|text| {
            bytes.set(bytes.get() + text.len());
            String::new()
        });
        bytes.get()
    }
}

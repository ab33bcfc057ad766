//! Tools that a model may call, and its calls: what templates see of them.

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};

/// A function that a model may call.
///
/// ```
/// use edge_run::Tool;
///
/// let parameters = r#"{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}"#;
/// let tool = Tool::new("weather", "Tells the weather of a city", parameters)?;
/// assert_eq!(tool.name(), "weather");
/// assert!(Tool::new("weather", "", "no JSON").is_err());
/// # Ok::<(), edge_run::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    pub(super) name: String,
    pub(super) description: String,
    pub(super) parameters: Value,
}

impl Tool {
    /// A tool whose parameters a JSON schema describes, the text of a JSON object. Fails where it is none, and where
    /// the name is empty.
    pub fn new(name: impl Into<String>, description: impl Into<String>, parameters: &str) -> Result<Tool> {
        let name = name.into();
        if name.is_empty() {
            return Err(Error::argument("tool", "a name", "none"));
        }
        match serde_json::from_str(parameters) {
            Ok(parameters @ Value::Object(_)) => Ok(Tool { name, description: description.into(), parameters }),
            Ok(other) => Err(Error::argument(format!("parameters of the tool `{name}`"), "a JSON object", other)),
            Err(fault) => Err(Error::argument(format!("parameters of the tool `{name}`"), "a JSON object", fault)),
        }
    }

    /// What the model calls it by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it does, for the model.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// The JSON schema of its parameters, as text.
    pub fn parameters(&self) -> String {
        self.parameters.to_string()
    }

    /// The tool as templates see it.
    pub(super) fn value(&self) -> Value {
        let Tool { name, description, parameters } = self;
        json!({"type": "function", "function": {"name": name, "description": description, "parameters": parameters}})
    }

    /// The tool with each text in it changed.
    pub(super) fn map(&self, change: &dyn Fn(&str) -> String) -> Tool {
        Tool {
            name: change(&self.name),
            description: change(&self.description),
            parameters: map_value(&self.parameters, change),
        }
    }
}

/// A model's call of a tool.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ToolCall {
    /// What the tool's result names the call by; no two calls of an answer have the same.
    pub id: String,
    /// The tool's name, as the model wrote it: it need not be one of those that there are.
    pub name: String,
    /// The arguments, the text of a JSON object. Whether they fit the tool's schema was not looked at.
    pub arguments: String,
}

impl ToolCall {
    /// The call as templates see it.
    pub(super) fn value(&self) -> Value {
        let arguments = serde_json::from_str(&self.arguments).unwrap_or_else(|_| Value::from(self.arguments.as_str()));
        json!({"id": self.id, "type": "function", "function": {"name": self.name, "arguments": arguments}})
    }

    /// The call with each text in it changed.
    pub(super) fn map(&self, change: &dyn Fn(&str) -> String) -> ToolCall {
        let arguments = match serde_json::from_str::<Value>(&self.arguments) {
            Ok(arguments) => map_value(&arguments, change).to_string(),
            Err(_) => change(&self.arguments),
        };
        ToolCall { id: change(&self.id), name: change(&self.name), arguments }
    }
}

fn map_value(value: &Value, change: &dyn Fn(&str) -> String) -> Value {
    match value {
        Value::String(text) => Value::String(change(text)),
        Value::Array(items) => items.iter().map(|item| map_value(item, change)).collect(),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| (change(key), map_value(value, change)));
            Value::Object(fields.collect::<Map<String, Value>>())
        }
        other => other.clone(),
    }
}

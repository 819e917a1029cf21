//! Ollama's Modelfile: FROM, PARAMETER, TEMPLATE, SYSTEM, ADAPTER, LICENSE, MESSAGE.

use crate::error::ApiError;
use serde_json::{Map, Value, json};

/// What a Modelfile says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Modelfile {
    pub(super) from: Option<String>,
    pub(super) parameters: Map<String, Value>,
    pub(super) template: Option<String>,
    pub(super) system: Option<String>,
    pub(super) adapters: Vec<String>,
    pub(super) licenses: Vec<String>,
    pub(super) messages: Vec<Value>,
}

/// Reads a Modelfile. Commands may be in any case; texts between `"""` may have several lines.
///
/// # Errors
/// Names the line that is none of a Modelfile.
pub(super) fn parse(text: &str) -> Result<Modelfile, ApiError> {
    let mut file = Modelfile::default();
    let mut rest = text;
    while !rest.is_empty() {
        let number = text[..text.len() - rest.len()].lines().count() + 1;
        let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            rest = after;
            continue;
        }
        let wrong = |what: &str| ApiError::field("modelfile", format!("line {number}: {what}"));
        let (command, argument) = trimmed.split_once(char::is_whitespace).unwrap_or((trimmed, ""));
        let start = argument.trim_start();
        let (head, value_start) = match command.to_ascii_lowercase().as_str() {
            "parameter" | "message" => {
                start.split_once(char::is_whitespace).ok_or_else(|| wrong("expected two words"))?
            }
            _ => ("", start),
        };
        let value_start = value_start.trim_start();
        let value = match value_start.strip_prefix("\"\"\"") {
            None => {
                rest = after;
                let inner = value_start.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
                inner.unwrap_or(value_start).to_owned()
            }
            Some(_) => {
                let opening = rest.find("\"\"\"").unwrap_or(0) + 3;
                let (value, behind) =
                    rest[opening..].split_once("\"\"\"").ok_or_else(|| wrong("the text does not end (\"\"\")"))?;
                rest = behind.split_once('\n').map_or("", |(_, next)| next);
                value.to_owned()
            }
        };
        file.take(&command.to_ascii_lowercase(), head, value).map_err(|what| wrong(&what))?;
    }
    Ok(file)
}

impl Modelfile {
    fn take(&mut self, command: &str, head: &str, value: String) -> Result<(), String> {
        match command {
            "from" => self.from = Some(value),
            "template" => self.template = Some(value),
            "system" => self.system = Some(value),
            "adapter" => self.adapters.push(value),
            "license" => self.licenses.push(value),
            "message" => self.messages.push(json!({ "role": head, "content": value })),
            "parameter" if head == "stop" => {
                let stops = self.parameters.entry("stop").or_insert_with(|| json!([]));
                if let Value::Array(stops) = stops {
                    stops.push(value.into());
                }
            }
            "parameter" => {
                let value = serde_json::from_str::<Value>(&value).ok().filter(|v| v.is_number() || v.is_boolean());
                let value = value.ok_or_else(|| format!("parameter {head}: expected a number"))?;
                self.parameters.insert(head.to_owned(), value);
            }
            other => return Err(format!("there is no command {other:?}")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_commands_are_read() {
        let text = "# mine\nFROM base:7b\nparameter temperature 0.5\nPARAMETER stop \"<end>\"\nPARAMETER stop User:\n\
                    SYSTEM \"\"\"Be\nbrief.\"\"\"\nTEMPLATE \"{{ x }}\"\nLICENSE MIT\nMESSAGE user hello there\n";
        let file = parse(text).unwrap();
        assert_eq!(file.from.as_deref(), Some("base:7b"));
        assert_eq!(Value::Object(file.parameters), json!({ "temperature": 0.5, "stop": ["<end>", "User:"] }));
        assert_eq!(file.system.as_deref(), Some("Be\nbrief."));
        assert_eq!(file.template.as_deref(), Some("{{ x }}"));
        assert_eq!(file.messages, [json!({ "role": "user", "content": "hello there" })]);
    }

    #[test]
    fn a_wrong_line_is_named() {
        for (text, line) in [("FROM x\nFRM y", 2), ("SYSTEM \"\"\"open", 1), ("\n\nPARAMETER top_k many", 3)] {
            let error = parse(text).unwrap_err();
            assert!(error.message.contains(&format!("line {line}:")), "{}", error.message);
        }
    }
}

//! The items of an answer while they come: reasoning, messages, calls.

use crate::generate::Part;
use serde_json::{Value, json};

/// The items so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Items {
    /// Items that are complete, as they are told.
    done: Vec<Value>,
    open: Option<Item>,
}

/// An item that is being written.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) id: String,
    pub(super) kind: Kind,
    /// Its text, or the call's arguments.
    pub(super) text: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Message,
    Reasoning,
    Call { call_id: String, name: String },
}

/// What became of the item with the given number.
pub(super) enum Step<'i> {
    Opened(&'i Item),
    Grew(&'i Item, &'i str),
    Closed(&'i Item, &'i Value),
}

impl Item {
    fn new(kind: Kind) -> Item {
        let prefix = match kind {
            Kind::Message => "msg_",
            Kind::Reasoning => "rs_",
            Kind::Call { .. } => "fc_",
        };
        Item { id: crate::ids::new(prefix), kind, text: String::new() }
    }

    /// The item with its parts.
    pub(super) fn told(&self, status: &str) -> Value {
        self.object(status, json!([self.part()]))
    }

    /// The item as it begins.
    pub(super) fn beginning(&self) -> Value {
        self.object("in_progress", json!([]))
    }

    fn object(&self, status: &str, content: Value) -> Value {
        let id = &self.id;
        match &self.kind {
            Kind::Message => {
                json!({ "id": id, "type": "message", "role": "assistant", "status": status, "content": content })
            }
            Kind::Reasoning => {
                json!({ "id": id, "type": "reasoning", "status": status, "summary": [], "content": content })
            }
            Kind::Call { call_id, name } => json!({
                "id": id, "type": "function_call", "status": status, "call_id": call_id, "name": name,
                "arguments": self.text,
            }),
        }
    }

    /// The one part of a message or of reasoning.
    pub(super) fn part(&self) -> Value {
        match self.kind {
            Kind::Reasoning => json!({ "type": "reasoning_text", "text": self.text }),
            _ => json!({ "type": "output_text", "text": self.text, "annotations": [], "logprobs": [] }),
        }
    }
}

impl Items {
    /// Takes a part; `tell` hears what became of which item.
    pub(super) fn take(&mut self, part: Part, tell: &mut impl FnMut(usize, Step<'_>)) {
        match part {
            Part::Content(text) => self.text(Kind::Message, &text, tell),
            Part::Reasoning(text) => self.text(Kind::Reasoning, &text, tell),
            Part::Call { name, id } => {
                let call_id = id.unwrap_or_default();
                self.begin(Kind::Call { call_id, name }, tell);
            }
            Part::Arguments(text) => self.grow(&text, tell),
            Part::CallEnd => self.close("completed", tell),
        }
    }

    fn text(&mut self, kind: Kind, text: &str, tell: &mut impl FnMut(usize, Step<'_>)) {
        if text.is_empty() {
            return;
        }
        if self.open.as_ref().is_none_or(|item| item.kind != kind) {
            self.begin(kind, tell);
        }
        self.grow(text, tell);
    }

    fn begin(&mut self, kind: Kind, tell: &mut impl FnMut(usize, Step<'_>)) {
        self.close("completed", tell);
        let item = self.open.insert(Item::new(kind));
        tell(self.done.len(), Step::Opened(item));
    }

    fn grow(&mut self, text: &str, tell: &mut impl FnMut(usize, Step<'_>)) {
        if let Some(item) = &mut self.open {
            item.text.push_str(text);
            tell(self.done.len(), Step::Grew(item, text));
        }
    }

    fn close(&mut self, status: &str, tell: &mut impl FnMut(usize, Step<'_>)) {
        if let Some(item) = self.open.take() {
            let told = item.told(status);
            tell(self.done.len(), Step::Closed(&item, &told));
            self.done.push(told);
        }
    }

    /// The answer is over. One that says nothing is an empty message.
    pub(super) fn end(&mut self, status: &str, tell: &mut impl FnMut(usize, Step<'_>)) -> Vec<Value> {
        if self.done.is_empty() && self.open.is_none() {
            self.begin(Kind::Message, tell);
        }
        self.close(status, tell);
        self.done.clone()
    }
}

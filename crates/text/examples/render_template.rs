//! Renders a chat template: `render_template TEMPLATE < CONVERSATION.json`. The conversation is an object with
//! `messages` and, if wanted, `tools`, `documents`, `add_generation_prompt`; everything else in it is a variable.
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use allod_text::{Conversation, Template};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: render_template TEMPLATE < CONVERSATION.json")?;
    let template = Template::new(&std::fs::read_to_string(path)?)?;
    let mut variables: serde_json::Map<String, serde_json::Value> = serde_json::from_reader(std::io::stdin())?;
    let mut take = |key: &str| variables.shift_remove(key).unwrap_or_default();
    let (messages, tools, documents) = (take("messages"), take("tools"), take("documents"));
    let add_generation_prompt = take("add_generation_prompt") == true;
    let now = take("now").as_u64();
    let rendered =
        template.render(&Conversation { messages, tools, documents, add_generation_prompt, variables, now })?;
    print!("{}", rendered.text);
    Ok(())
}

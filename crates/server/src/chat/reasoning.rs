//! Whether and how long a model reasons: a variable of its template where that has one, else the engine's count.

use crate::error::ApiError;
use crate::prompt::{Chosen, Talk};
use allod_text::output::Format;
use serde_json::{Map, Value};

/// Efforts that dialects name, and the tokens of reasoning that each allows where a template has no word for it.
const EFFORTS: [(&str, Option<u32>); 7] = [
    ("none", Some(0)),
    ("minimal", Some(256)),
    ("low", Some(1024)),
    ("medium", Some(4096)),
    ("high", Some(16384)),
    ("xhigh", None),
    ("max", None),
];

/// Variables by which templates are told whether to reason.
const SWITCHES: [&str; 2] = ["enable_thinking", "thinking"];
/// The variable by which templates are told how much.
const EFFORT: &str = "reasoning_effort";

/// What a request says about reasoning. The names are the request's, for errors.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reasoning {
    /// Whether to reason at all.
    pub(crate) on: Option<(bool, &'static str)>,
    /// How much, in a word of [`EFFORTS`].
    pub(crate) effort: Option<(String, &'static str)>,
    /// How many tokens.
    pub(crate) budget: Option<(u32, &'static str)>,
}

impl Reasoning {
    /// A model without a template says nothing about reasoning.
    pub(super) fn without_template(&self, talk: &Talk) -> Result<(), ApiError> {
        let wanted = self.on.filter(|(on, _)| *on).map(|(_, field)| field);
        let effort = self.effort.as_ref().filter(|(effort, _)| effort != "none").map(|(_, field)| *field);
        let kwargs = (!talk.variables.is_empty()).then_some("chat_template_kwargs");
        match wanted.or(effort).or(self.budget.map(|(_, field)| field)).or(kwargs) {
            Some(field) => Err(ApiError::field(field, "this model has no chat template")),
            None => Ok(()),
        }
    }

    /// Sets the template's variables, and gives the most tokens of reasoning with the field that asked for it.
    pub(super) fn settle(
        &self,
        template: &Chosen<'_>,
        format: &Format,
        variables: &mut Map<String, Value>,
    ) -> Result<Option<(u32, &'static str)>, ApiError> {
        let reasons = format.reasons_in(template.source()) || SWITCHES.iter().any(|name| template.reads(name));
        let mut on = self.on;
        let mut budget = self.budget;
        if let Some((effort, field)) = &self.effort {
            let known = EFFORTS.iter().find(|(name, _)| name == effort);
            let Some((_, tokens)) = known else {
                let names: Vec<&str> = EFFORTS.iter().map(|(name, _)| *name).collect();
                return Err(ApiError::field(*field, format!("expected {}, found {effort:?}", names.join(", "))));
            };
            on = on.or(Some((effort != "none", field)));
            if template.reads(EFFORT) && effort != "none" {
                variables.entry(EFFORT).or_insert_with(|| effort.as_str().into());
            } else if effort != "none" {
                let tokens = tokens.map(|tokens| (tokens, *field));
                budget = [budget, tokens].into_iter().flatten().min_by_key(|(tokens, _)| *tokens);
            }
        }
        if let Some((_, field)) = budget.filter(|_| !reasons) {
            return Err(ApiError::field(field, "the model's chat template shows no reasoning"));
        }
        let Some((on, field)) = on else { return Ok(budget) };
        if on && !reasons && !template.reads(EFFORT) {
            return Err(ApiError::field(field, "the model's chat template shows no reasoning"));
        }
        match SWITCHES.iter().find(|name| template.reads(name)) {
            Some(switch) => {
                variables.entry(*switch).or_insert_with(|| on.into());
                Ok(budget.filter(|_| on))
            }
            // Who cannot be told not to reason is stopped at once.
            None if !on && reasons => Ok(Some((0, field))),
            None => Ok(budget),
        }
    }
}

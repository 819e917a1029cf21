//! What the registry promises.

use allod_models::{Abilities, Output, arch, sample};

#[test]
fn names_are_unique_and_near_misses_are_named() {
    let mut kinds: Vec<_> = arch::ALL.iter().map(|a| a.model_type).collect();
    kinds.sort_unstable();
    let all = kinds.len();
    kinds.dedup();
    assert_eq!(kinds.len(), all);
    assert_eq!(arch::nearest("Qwen4ForCausalLM"), "qwen2");
    assert_eq!(arch::nearest("gemma-3"), "gemma");
}

#[test]
fn everything_can_be_done_with_every_architecture() {
    let all = Abilities { run: true, gguf: true, safetensors: true, embed: true, tune: true };
    let mut lacking = vec![];
    for a in arch::ALL {
        match sample(a, Output::Own) {
            Ok(plan) if plan.params().len() > 20 && a.abilities() == all => {}
            Ok(plan) => lacking.push(format!("{}: {} weights, {:?}", a.model_type, plan.params().len(), a.abilities())),
            Err(e) => lacking.push(e.to_string()),
        }
    }
    assert!(lacking.is_empty(), "{lacking:#?}");
}

#[test]
fn what_a_class_takes_for_granted_can_be_read() {
    for a in arch::ALL {
        for field in a.defaults.split_whitespace() {
            let value = field.split_once('=').and_then(|(_, v)| serde_json::from_str::<serde_json::Value>(v).ok());
            assert!(value.is_some_and(|v| v.is_number() || v.is_boolean()), "{}: {field}", a.model_type);
        }
    }
}

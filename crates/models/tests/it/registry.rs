//! What the registry promises.

use allod_models::arch;

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

//! The recipes as data: what llama.cpp's `llama-quantize` does under each of its names.

use super::Role;
use allod_tensor::DType::{self, *};

/// When a rule applies to a tensor. `i` counts the tensors of its role as they come (or is its layer, in feed-forward
/// parts of models with experts), `n` is how many there are of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// `i` below this number.
    First(usize),
    /// `i` in the first one of so many parts of `n`.
    FirstOf(usize),
    /// `i` in the first or last eighth, or every third between.
    Spread,
    /// `i` neither in the first nor in the last eighth.
    Middle,
    /// Four query heads or more to a key-value head, or fewer.
    WideGroups(bool),
    /// With importance statistics, or without.
    Imatrix(bool),
    /// Exactly eight experts, as Mixtral has, or not.
    EightExperts(bool),
    /// Four experts or more.
    FourExperts,
    /// Falcon, or another architecture.
    Falcon(bool),
}

/// A tensor of this role, when all of this holds, gets this type. The first rule that applies counts.
pub(super) type Rule = (Role, &'static [When], DType);

/// How a recipe treats output and embedding, and which changes come after its rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// Most of them.
    Plain,
    /// One and two-bit codebooks: counts layers differently and knows no later changes.
    Low,
    /// Only expert matrices in MXFP4, all others in Q8_0.
    Experts,
}

/// A named mix of types.
#[derive(Debug)]
pub struct Recipe {
    /// Its usual name, such as `Q4_K_M`.
    pub name: &'static str,
    /// The number in `general.file_type`.
    pub file_type: u32,
    /// The type of every tensor that no rule speaks of.
    pub default: DType,
    /// The type of `output.weight`, or of tied embeddings.
    pub(super) output: DType,
    /// The type of embeddings that are not tied.
    pub(super) embedding: DType,
    pub(super) family: Family,
    pub(super) rules: &'static [Rule],
}

const fn recipe(name: &'static str, file_type: u32, default: DType, rules: &'static [Rule]) -> Recipe {
    let output = if matches!(default, Q8_0) { Q8_0 } else { Q6_K };
    Recipe { name, file_type, default, output, embedding: default, family: Family::Plain, rules }
}

impl Recipe {
    const fn ends(self, output: DType, embedding: DType) -> Recipe {
        Recipe { output, embedding, ..self }
    }
    const fn family(self, family: Family) -> Recipe {
        Recipe { family, ..self }
    }
}

use Role::{AttnOutput as O, FfnDown as DOWN, FfnGate as GATE, FfnUp as UP, Key as K, Query as Q, Value as V};
use When::{EightExperts as Eight, Falcon, First, FirstOf, FourExperts, Imatrix, Middle, Spread, WideGroups as Wide};

/// Attention outputs of Mixtral.
const O8: Rule = (O, &[Falcon(false), Eight(true)], Q5_K);

/// All recipes.
pub static RECIPES: &[Recipe] = &[
    recipe("F32", 0, F32, &[]),
    recipe("F16", 1, F16, &[]),
    recipe("BF16", 32, BF16, &[]),
    recipe("Q4_0", 2, Q4_0, &[(DOWN, &[Imatrix(true), FirstOf(8)], Q4_1)]),
    recipe("Q4_1", 3, Q4_1, &[]),
    recipe("Q5_0", 8, Q5_0, &[(DOWN, &[Imatrix(true), FirstOf(8)], Q5_1)]),
    recipe("Q5_1", 9, Q5_1, &[]),
    recipe("Q8_0", 7, Q8_0, &[]),
    recipe("Q1_0", 40, Q1_0, &[]),
    recipe("Q2_0", 41, Q2_0, &[]).ends(Q6_K, Q4_K),
    recipe("TQ1_0", 36, TQ1_0, &[]).ends(Q6_K, Q4_K),
    recipe("TQ2_0", 37, TQ2_0, &[]).ends(Q6_K, Q4_K),
    recipe("MXFP4_MOE", 38, MXFP4, &[]).ends(Q8_0, Q8_0).family(Family::Experts),
    recipe("NVFP4", 39, NVFP4, &[]),
    recipe(
        "Q2_K",
        10,
        Q2_K,
        &[(V, &[Wide(true)], Q4_K), (V, &[], Q3_K), (DOWN, &[], Q3_K), O8, (O, &[Falcon(false)], Q3_K)],
    ),
    recipe("Q2_K_S", 21, Q2_K, &[(V, &[Wide(true)], Q4_K), (DOWN, &[FirstOf(8)], Q4_K)]),
    recipe("Q3_K_S", 11, Q3_K, &[O8]),
    recipe(
        "Q3_K_M",
        12,
        Q3_K,
        &[
            (V, &[First(2)], Q5_K),
            (V, &[], Q4_K),
            (DOWN, &[FirstOf(16)], Q5_K),
            (DOWN, &[Falcon(false)], Q4_K),
            (DOWN, &[Spread], Q4_K),
            O8,
            (O, &[Falcon(false)], Q4_K),
        ],
    ),
    recipe(
        "Q3_K_L",
        13,
        Q3_K,
        &[
            (V, &[], Q5_K),
            (DOWN, &[Falcon(true)], Q4_K),
            (DOWN, &[], Q5_K),
            (O, &[Falcon(true)], Q4_K),
            (O, &[Eight(false)], Q5_K),
        ],
    ),
    recipe("Q4_K_S", 14, Q4_K, &[(V, &[First(4)], Q5_K), (DOWN, &[Falcon(false), FirstOf(8)], Q5_K), O8]),
    recipe(
        "Q4_K_M",
        15,
        Q4_K,
        &[
            (V, &[Spread], Q6_K),
            (DOWN, &[Falcon(true), FirstOf(16)], Q6_K),
            (DOWN, &[Falcon(true), Spread], Q5_K),
            (DOWN, &[Falcon(false), Spread], Q6_K),
            O8,
        ],
    ),
    recipe("Q5_K_S", 16, Q5_K, &[]),
    recipe("Q5_K_M", 17, Q5_K, &[(V, &[Spread], Q6_K), (DOWN, &[Spread], Q6_K)]),
    recipe("Q6_K", 18, Q6_K, &[]),
    recipe("IQ4_NL", 25, IQ4_NL, &[(V, &[Wide(true)], Q5_K), (DOWN, &[Imatrix(false), FirstOf(8)], Q5_K), O8]),
    recipe("IQ4_XS", 30, IQ4_XS, &[(V, &[Wide(true)], Q5_K), (DOWN, &[Imatrix(false), FirstOf(8)], Q5_K), O8]),
    recipe(
        "IQ3_XXS",
        23,
        IQ3_XXS,
        &[
            (V, &[Wide(true)], Q4_K),
            (V, &[Imatrix(false)], IQ3_S),
            (K, &[], IQ2_S),
            (Q, &[], IQ2_S),
            (DOWN, &[Imatrix(false), FirstOf(8)], Q4_K),
            (DOWN, &[Imatrix(false)], Q3_K),
            O8,
            (O, &[Falcon(false)], IQ3_S),
        ],
    )
    .ends(Q5_K, IQ3_S),
    recipe(
        "IQ3_XS",
        22,
        IQ3_S,
        &[
            (V, &[Wide(true)], Q4_K),
            (K, &[], IQ3_XXS),
            (Q, &[], IQ3_XXS),
            (GATE, &[Middle], IQ3_XXS),
            (UP, &[Middle], IQ3_XXS),
            O8,
        ],
    ),
    recipe("IQ3_S", 26, IQ3_S, &[(V, &[Wide(true)], Q4_K), O8]),
    recipe(
        "IQ3_M",
        27,
        IQ3_S,
        &[
            (V, &[], Q4_K),
            (DOWN, &[FirstOf(8)], Q4_K),
            (DOWN, &[Eight(true), Spread], Q4_K),
            O8,
            (O, &[Falcon(false)], Q4_K),
        ],
    ),
    recipe("IQ1_S", 24, IQ1_S, &[LOW_V[0], LOW_V[1], LOW_V[2], LOW_K, LOW_DOWN, LOW_O8, (O, &[], IQ2_XXS)])
        .ends(Q5_K, Q2_K)
        .family(Family::Low),
    recipe("IQ1_M", 31, IQ1_M, &[LOW_V[0], LOW_V[1], LOW_V[2], LOW_K, LOW_DOWN, LOW_O8, (O, &[], IQ2_XXS)])
        .ends(Q5_K, Q2_K)
        .family(Family::Low),
    recipe("IQ2_XXS", 19, IQ2_XXS, &[LOW_V[0], LOW_V[1], LOW_V[2], LOW_K, LOW_DOWN, LOW_O8])
        .ends(Q5_K, Q2_K)
        .family(Family::Low),
    recipe("IQ2_XS", 20, IQ2_XS, &[LOW_V[0], LOW_V[1], LOW_V[2], LOW_K, LOW_DOWN, LOW_O8])
        .ends(Q5_K, Q2_K)
        .family(Family::Low),
    recipe("IQ2_S", 28, IQ2_XS, LOW_PLUS).ends(Q5_K, IQ3_S).family(Family::Low),
    recipe("IQ2_M", 29, IQ2_S, LOW_PLUS).ends(Q5_K, IQ3_S).family(Family::Low),
];

/// The rules that the smallest recipes share.
const LOW_V: [Rule; 3] = [(V, &[Wide(true)], Q4_K), (V, &[FourExperts], Q4_K), (V, &[], Q2_K)];
const LOW_K: Rule = (K, &[Eight(true)], Q4_K);
const LOW_DOWN: Rule = (DOWN, &[FirstOf(8)], Q2_K);
const LOW_O8: Rule = (O, &[Eight(true)], Q5_K);
const LOW_PLUS: &[Rule] =
    &[LOW_V[0], LOW_V[1], (V, &[], IQ3_S), LOW_K, (DOWN, &[FirstOf(8)], IQ3_S), LOW_O8, (O, &[], IQ3_S)];

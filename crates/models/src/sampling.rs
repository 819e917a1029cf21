//! How a model's file recommends to sample from it.

use allod_formats::Metadata;

/// Keys below `general.sampling.` and the sampler's parameters that they recommend.
const RECOMMENDED: [(&str, &str); 11] = [
    ("temp", "temperature"),
    ("top_k", "top_k"),
    ("top_p", "top_p"),
    ("min_p", "min_p"),
    ("xtc_probability", "xtc_probability"),
    ("xtc_threshold", "xtc_threshold"),
    ("penalty_last_n", "repeat_last_n"),
    ("penalty_repeat", "repeat_penalty"),
    ("mirostat", "mirostat"),
    ("mirostat_tau", "mirostat_tau"),
    ("mirostat_eta", "mirostat_eta"),
];

/// Parameters of the sampler, by name, that the file recommends.
///
/// # Errors
/// Names the key whose value is no number.
pub fn recommended_sampling(meta: &Metadata) -> Result<serde_json::Map<String, serde_json::Value>, crate::Error> {
    let mut values = serde_json::Map::new();
    for (key, name) in RECOMMENDED {
        let key = format!("general.sampling.{key}");
        let Some(value) = meta.get(&key) else { continue };
        let json = match (value.as_i64(), meta.float(&key)) {
            // -1 is how some files write "off".
            (Some(n), _) if name == "top_k" => n.max(0).into(),
            (Some(n), _) => n.into(),
            (None, Some(x)) => x.into(),
            (None, None) => {
                let (origin, found) = ("the model file".into(), format!("{value:?}"));
                return Err(crate::Error::Key { origin, key, expected: "a number".into(), found });
            }
        };
        values.insert(name.into(), json);
    }
    Ok(values)
}

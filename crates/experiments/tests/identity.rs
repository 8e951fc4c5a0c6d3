//! The identity contract against golden values: canonical lines, trial keys, derived seeds.
//!
//! `identity.json` lies in `GOLDEN_DIR/experiments`, or in this crate's `tests/golden`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use experiments::identity::{Cell, Value, canonical, derive_seed, trial_key};
use serde_json::Value as Json;
use std::path::PathBuf;

fn golden() -> Json {
    let folder = match std::env::var_os("GOLDEN_DIR") {
        Some(folder) => PathBuf::from(folder).join("experiments"),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden"),
    };
    let path = folder.join("identity.json");
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}

fn cell(json: &Json) -> Cell {
    let value = |v: &Json| {
        let (kind, value) = (v["type"].as_str().unwrap(), &v["value"]);
        match kind {
            "str" => Value::Text(value.as_str().unwrap().into()),
            "int" => Value::Int(value.as_i64().unwrap()),
            // decimal text, so that the file does not depend on how JSON prints floats
            "float" => Value::Float(value.as_str().unwrap().parse().unwrap()),
            "bool" => Value::Bool(value.as_bool().unwrap()),
            other => panic!("unknown type {other:?}"),
        }
    };
    json.as_object().unwrap().iter().map(|(k, v)| (k.clone(), value(v))).collect()
}

#[test]
fn trial_keys_and_canonical_lines() {
    let golden = golden();
    let cases = golden["trial_keys"].as_array().unwrap();
    assert!(!cases.is_empty(), "no case of trial_keys");
    for case in cases {
        let cell = cell(&case["cell"]);
        let rep = u32::try_from(case["rep"].as_u64().unwrap()).unwrap();
        let experiment = case["experiment"].as_str().unwrap();
        assert_eq!(canonical(&cell).unwrap(), case["canonical"].as_str().unwrap(), "{case}");
        let key = trial_key(experiment, &cell, rep).unwrap();
        assert_eq!(key.0, case["trial_key"].as_str().unwrap(), "{case}");
    }
    println!("trial_keys: {} cases, all equal", cases.len());
}

#[test]
fn derived_seeds() {
    let golden = golden();
    let cases = golden["seeds"].as_array().unwrap();
    assert!(!cases.is_empty(), "no case of seeds");
    for case in cases {
        let rep = u32::try_from(case["rep"].as_u64().unwrap()).unwrap();
        let seed = derive_seed(
            case["root"].as_u64().unwrap(),
            case["stream"].as_str().unwrap(),
            &cell(&case["block"]),
            rep,
        );
        assert_eq!(seed.unwrap(), case["seed"].as_i64().unwrap(), "{case}");
    }
    println!("seeds: {} cases, all equal", cases.len());
}

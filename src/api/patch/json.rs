//! JSON patch (RFC 6902), with Kubernetes' limits and texts.

use serde_json::Value;

use crate::{Result, Status};

/// More operations than this are refused, as upstream does.
pub const MAX_OPERATIONS: usize = 10_000;

/// A patched object may not grow beyond what a request may carry, in bytes of JSON.
const MAX_BYTES: usize = 3 * 1024 * 1024;

/// As deep as a patched object may nest: what JSON bodies may and what is read back from the store can.
const DEEPEST: usize = 127;

/// The object after all operations of a patch, or none.
///
/// # Errors
/// 400 when the patch is malformed, 413 when it is too long, 422 when an operation does not apply.
pub fn json(original: &Value, patch: &Value) -> Result<Value> {
    let count = patch.as_array().map_or(0, Vec::len);
    if count > MAX_OPERATIONS {
        let text = format!("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {count}");
        return Err(Status::too_large(text));
    }
    let parsed: json_patch::Patch = serde_json::from_value(patch.clone())
        .map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))?;
    let mut patched = original.clone();
    // Every copy can double an object, so its size is looked at after each.
    for (i, operation) in parsed.0.chunks(1).enumerate() {
        json_patch::patch_unsafe(&mut patched, operation).map_err(|e| unprocessable(&e, i))?;
        check_depth(&patched, operation)?;
        if matches!(operation, [json_patch::PatchOperation::Copy(_)]) {
            check_size(&patched)?;
        }
    }
    Ok(patched)
}

/// Operations put values into each other, so what arrived must be looked at where it lies now.
fn check_depth(patched: &Value, operation: &[json_patch::PatchOperation]) -> Result<()> {
    use json_patch::PatchOperation::{Remove, Test};
    let Some(operation) = operation.first().filter(|o| !matches!(o, Remove(_) | Test(_))) else {
        return Ok(());
    };
    let path = operation.path();
    let above = path.tokens().count();
    // What went to the end of a list (`-`) is its last item.
    let end = path.parent().filter(|_| path.as_str().ends_with("/-")).and_then(|list| {
        patched.pointer(list.as_str()).and_then(Value::as_array).and_then(|items| items.last())
    });
    let value = end.or_else(|| patched.pointer(path.as_str())).unwrap_or(&Value::Null);
    if DEEPEST.checked_sub(above).is_some_and(|left| nests_within(value, left)) {
        return Ok(());
    }
    Err(Status::bad_request(format!("the patched object nests deeper than {DEEPEST} levels")))
}

/// Whether lists and maps lie at most so many deep in each other; looks no deeper than that.
fn nests_within(value: &Value, levels: usize) -> bool {
    let inside = |v: &Value| levels > 0 && nests_within(v, levels - 1);
    match value {
        Value::Array(items) => levels > 0 && items.iter().all(inside),
        Value::Object(map) => levels > 0 && map.values().all(inside),
        _ => true,
    }
}

fn check_size(value: &Value) -> Result<()> {
    let mut left = MAX_BYTES;
    if fits(value, &mut left) { Ok(()) } else { Err(Status::too_large(format!("limit is {MAX_BYTES}"))) }
}

/// Whether a value's JSON is (about) no longer than what is left.
fn fits(value: &Value, left: &mut usize) -> bool {
    let own = match value {
        Value::String(s) => s.len() + 2,
        _ => 1,
    };
    if *left < own {
        return false;
    }
    *left -= own;
    match value {
        Value::Array(items) => items.iter().all(|v| fits(v, left)),
        Value::Object(map) => map.iter().all(|(k, v)| {
            *left = left.saturating_sub(k.len());
            fits(v, left)
        }),
        _ => true,
    }
}

fn unprocessable(error: &json_patch::PatchError, index: usize) -> Status {
    let why = "the server rejected our request due to an error in our request";
    let text = format!("{why}: operation {index} on path {}: {}", error.path, error.kind);
    Status::new(crate::status::Reason::Invalid, text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn patching() {
        fn check(original: Value, patch: Value, expect: std::result::Result<Value, u16>) {
            assert_eq!(super::json(&original, &patch).map_err(|s| s.code()), expect, "{patch}");
        }
        check(
            json!({"spec": {"replicas": 1, "l": [1]}}),
            json!([{"op": "test", "path": "/spec/replicas", "value": 1},
                {"op": "replace", "path": "/spec/replicas", "value": 3}, {"op": "add", "path": "/spec/l/-", "value": 2}]),
            Ok(json!({"spec": {"replicas": 3, "l": [1, 2]}})),
        );
        check(json!({"a": 1}), json!([{"op": "test", "path": "/a", "value": 2}]), Err(422));
        check(json!({"a": 1}), json!([{"op": "remove", "path": "/b"}]), Err(422));
        check(json!({"a": 1}), json!([{"op": "jump", "path": "/b"}]), Err(400));
        check(json!({"a": 1}), json!({"op": "remove"}), Err(400));
        let many: Vec<_> = (0..10_001).map(|_| json!({"op": "add", "path": "/a", "value": 1})).collect();
        check(json!({}), json!(many), Err(413));
        let bomb: Vec<_> = (0..40).map(|_| json!({"op": "copy", "from": "/a", "path": "/a/-"})).collect();
        check(json!({"a": ["x".repeat(1_000_000)]}), json!(bomb), Err(413));
        let into_itself = |n| (0..n).map(|_| json!({"op": "copy", "from": "/a", "path": "/a/b"})).collect();
        assert!(super::json(&json!({"a": {}}), &into_itself(100)).is_ok());
        check(json!({"a": {}}), into_itself(200), Err(400));
        let added = |path: &str, levels: usize| {
            let deep = (1..levels).fold(json!({}), |inner, _| json!({ "b": inner }));
            let patched =
                super::json(&json!({"a": [[]]}), &json!([{"op": "add", "path": path, "value": deep}]));
            patched.map(|v| v.to_string().parse::<Value>().is_ok()).map_err(|s| s.code())
        };
        for (path, above) in [("/c", 1), ("/a/-", 2), ("/a/0/-", 3)] {
            assert_eq!(added(path, DEEPEST - above), Ok(true), "{path}");
            assert_eq!(added(path, DEEPEST - above + 1), Err(400), "{path}");
        }
    }
}

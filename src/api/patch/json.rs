//! JSON patch (RFC 6902), with Kubernetes' limits and texts.

use serde_json::Value;

use crate::{Result, Status};

/// More operations than this are refused, as upstream does.
pub const MAX_OPERATIONS: usize = 10_000;

/// A patched object may not grow beyond what a request may carry, in bytes of JSON.
const MAX_BYTES: usize = 3 * 1024 * 1024;

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
        if matches!(operation, [json_patch::PatchOperation::Copy(_)]) {
            check_size(&patched)?;
        }
    }
    Ok(patched)
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
    }
}

//! JSON merge patch (RFC 7396).

use serde_json::Value;

use crate::{Result, Status};

/// The object with the patch merged into it: null deletes, objects merge, everything else replaces.
///
/// # Errors
/// 400 when the patch is not an object.
pub fn merge(original: &Value, patch: &Value) -> Result<Value> {
    if !patch.is_object() {
        return Err(Status::bad_request("error decoding patch: a merge patch must be a JSON object"));
    }
    let mut patched = original.clone();
    json_patch::merge(&mut patched, patch);
    Ok(patched)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn merging() {
        fn check(original: Value, patch: Value, expect: Value) {
            assert_eq!(merge(&original, &patch).unwrap(), expect);
        }
        check(
            json!({"a": 1, "b": {"c": 1, "d": 2}}),
            json!({"a": null, "b": {"c": 3}}),
            json!({"b": {"c": 3, "d": 2}}),
        );
        check(json!({"l": [1, 2]}), json!({"l": [3]}), json!({"l": [3]}));
        check(json!({}), json!({"a": {"b": null, "c": 1}}), json!({"a": {"c": 1}}));
        // kubectl label x- / kubectl annotate
        check(
            json!({"metadata": {"labels": {"x": "1", "y": "2"}}}),
            json!({"metadata": {"labels": {"x": null}}}),
            json!({"metadata": {"labels": {"y": "2"}}}),
        );
        assert_eq!(merge(&json!({}), &json!([])).unwrap_err().code(), 400);
    }
}

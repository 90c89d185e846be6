//! Default values as a table: a path and the JSON that stands there when the client left it out.
//!
//! A path is fields joined by dots. `items[]` goes into every item of a list. `field!` makes the object `field`
//! when it is absent; without the mark an absent parent has no defaults. The order of rows counts: a later row
//! sees what an earlier one filled in.

use api::Object;
use serde_json::{Map, Value};

/// A path and its default as JSON.
pub(super) type Row = (&'static str, &'static str);

/// Fills in the defaults of `rows` below `prefix` (itself a path; empty: the object).
pub(super) fn fill(object: &mut Object, prefix: &str, rows: &[Row]) {
    for (path, json) in rows {
        let path = if prefix.is_empty() { (*path).to_owned() } else { format!("{prefix}.{path}") };
        let (parents, field) = path.rsplit_once('.').unwrap_or(("", &path));
        visit_map(&mut object.0, parents, &mut |map| {
            if map.get(field).is_none_or(Value::is_null) {
                let value = serde_json::from_str(json).expect("a default in a table is JSON");
                map.insert(field.to_owned(), value);
            }
        });
    }
}

/// Calls `f` with every object at `path`.
pub(super) fn visit(object: &mut Object, path: &str, f: &mut dyn FnMut(&mut Map<String, Value>)) {
    visit_map(&mut object.0, path, f);
}

fn visit_map(map: &mut Map<String, Value>, path: &str, f: &mut dyn FnMut(&mut Map<String, Value>)) {
    if path.is_empty() {
        return f(map);
    }
    let (step, rest) = path.split_once('.').unwrap_or((path, ""));
    if let Some(list) = step.strip_suffix("[]") {
        let items = map.get_mut(list).and_then(Value::as_array_mut);
        items.into_iter().flatten().filter_map(Value::as_object_mut).for_each(|m| visit_map(m, rest, f));
    } else if let Some(field) = step.strip_suffix('!') {
        let slot = map.entry(field).or_insert(Value::Null);
        if slot.is_null() {
            *slot = Value::Object(Map::new());
        }
        slot.as_object_mut().into_iter().for_each(|m| visit_map(m, rest, f));
    } else {
        map.get_mut(step).and_then(Value::as_object_mut).into_iter().for_each(|m| visit_map(m, rest, f));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_reach_lists_and_make_only_marked_parents() {
        let check = |object: Value, row: Row, expect: Value| {
            let mut object = Object::try_from(object).unwrap();
            fill(&mut object, "", &[row]);
            assert_eq!(object.into_value(), expect, "{row:?}");
        };
        check(json!({"spec": {}}), ("spec.replicas", "1"), json!({"spec": {"replicas": 1}}));
        check(json!({"spec": {"replicas": 0}}), ("spec.replicas", "1"), json!({"spec": {"replicas": 0}}));
        check(json!({}), ("spec.replicas", "1"), json!({}));
        check(json!({}), ("spec!.x!.y", "\"z\""), json!({"spec": {"x": {"y": "z"}}}));
        check(json!({"l": [{}, {"p": 2}]}), ("l[].p", "1"), json!({"l": [{"p": 1}, {"p": 2}]}));
    }
}

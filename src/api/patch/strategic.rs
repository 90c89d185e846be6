//! Strategic merge patch: a merge patch that knows which lists are maps by key, and its directives
//! (`$patch`, `$retainKeys`, `$setElementOrder/…`, `$deleteFromPrimitiveList/…`).
//!
//! Keeps true: the order of a patched list is that of upstream: as `$setElementOrder` says; else what the patch
//! names comes in the patch's order, before what only the server has unless that stood in front of it.

use serde_json::{Map, Value};

use crate::{
    Result, Status,
    schema::{
        Schema,
        types::{Field, Shape, Type},
    },
    status::Reason,
};

const PATCH: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE: &str = "$deleteFromPrimitiveList/";

/// What is accepted where strategic merge is not.
const OTHERS: &[&str] =
    &["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];

/// The object with the patch merged into it, by the merge keys of the kind's schema.
///
/// # Errors
/// 415 for a kind without such a schema (custom resources); 400 for malformed directives; 422 for lists that
/// cannot be merged.
pub fn strategic(original: &Value, patch: &Value, schema: Option<&Schema>) -> Result<Value> {
    let Some(t) = schema.and_then(Schema::definition) else {
        return Err(Status::unsupported_media_type(OTHERS));
    };
    let (Value::Object(original), Value::Object(patch)) = (original, patch) else {
        return Err(Status::bad_request("invalid JSON document"));
    };
    Ok(Value::Object(merge_map(original.clone(), patch, Some(t))?))
}

type Json = Map<String, Value>;

fn merge_map(mut original: Json, patch: &Json, t: Option<&'static Type>) -> Result<Json> {
    match patch.get(PATCH).map(|p| p.as_str().unwrap_or_default()) {
        None | Some("merge") => {}
        Some("replace") => return Ok(without_directive(patch)),
        Some("delete") => return Ok(Json::new()),
        Some(other) => return Err(Status::bad_request(format!("unknown patch type found: {other}"))),
    }
    retain_keys(&mut original, patch)?;
    let before: Vec<_> = orders(patch).map(|(name, _)| original.get(name).cloned()).collect();
    for (name, value) in patch {
        if let Some(name) = name.strip_prefix(DELETE) {
            delete_scalars(&mut original, name, value)?;
        }
    }
    for (name, value) in patch.iter().filter(|(name, _)| !is_directive(name)) {
        match (original.remove(name), value) {
            (_, Value::Null) => {}
            (None, value) => {
                original.insert(name.clone(), cleaned(value));
            }
            (Some(old), value) => {
                let field = t.and_then(|t| t.field(name));
                original.insert(name.clone(), merge_value(old, value, field, t)?);
            }
        }
    }
    for ((name, order), before) in orders(patch).zip(before) {
        let key = t.and_then(|t| t.field(name)).map_or("", |f| f.patch_key);
        set_order(&mut original, name, order, before.as_ref(), patch, key)?;
    }
    Ok(original)
}

fn orders(patch: &Json) -> impl Iterator<Item = (&str, &Value)> {
    patch.iter().filter_map(|(name, value)| Some((name.strip_prefix(ORDER)?, value)))
}

fn is_directive(name: &str) -> bool {
    name == PATCH || name == RETAIN || name.starts_with(ORDER) || name.starts_with(DELETE)
}

fn merge_value(
    old: Value,
    patch: &Value,
    field: Option<&'static Field>,
    owner: Option<&Type>,
) -> Result<Value> {
    let has = |what: &str| field.is_some_and(|f| f.patch_strategy.split(',').any(|s| s == what));
    match (old, patch) {
        (Value::Object(old), Value::Object(patch)) if !has("replace") => {
            let (target, values) = field.map_or((None, None), |f| (f.shape.target(), map_values(&f.shape)));
            merge_map_of(old, patch, target, values).map(Value::Object)
        }
        (Value::Array(old), Value::Array(patch)) if has("merge") => {
            let field = field.expect("it has a strategy");
            merge_list(old, patch, field, owner).map(Value::Array)
        }
        _ => Ok(cleaned(patch)),
    }
}

/// A map of structs has the struct's type one level further down.
fn map_values(shape: &Shape) -> Option<&'static Type> {
    match shape {
        Shape::Map(values) => values.target(),
        _ => None,
    }
}

fn merge_map_of(
    old: Json,
    patch: &Json,
    t: Option<&'static Type>,
    values: Option<&'static Type>,
) -> Result<Json> {
    let Some(values) = values else { return merge_map(old, patch, t) };
    let (mut nested, mut plain) = (Vec::new(), Json::new());
    for (name, value) in patch {
        match (old.get(name), value) {
            (Some(Value::Object(old)), Value::Object(patch)) if !is_directive(name) => {
                nested.push((name.clone(), merge_map(old.clone(), patch, Some(values))?));
            }
            _ => {
                plain.insert(name.clone(), value.clone());
            }
        }
    }
    let mut merged = merge_map(old, &plain, t)?;
    merged.extend(nested.into_iter().map(|(name, map)| (name, Value::Object(map))));
    Ok(merged)
}

/// `$retainKeys`: only these fields of the original stay.
fn retain_keys(original: &mut Json, patch: &Json) -> Result<()> {
    let Some(keys) = patch.get(RETAIN) else { return Ok(()) };
    let Some(keys) = keys.as_array() else {
        return Err(Status::bad_request("invalid patch format of retainKeys"));
    };
    let kept = |name: &String| keys.iter().any(|k| k.as_str() == Some(name));
    let stray = patch.iter().find(|(name, value)| !is_directive(name) && !value.is_null() && !kept(name));
    if stray.is_some() {
        return Err(Status::bad_request(
            "invalid patch format of retainKeys: it does not contain all fields of the patch",
        ));
    }
    original.retain(|name, _| kept(name));
    Ok(())
}

fn delete_scalars(original: &mut Json, name: &str, values: &Value) -> Result<()> {
    let Some(values) = values.as_array() else {
        return Err(Status::bad_request("invalid patch format of primitive list"));
    };
    if let Some(Value::Array(list)) = original.get_mut(name) {
        list.retain(|item| !values.contains(item));
    }
    Ok(())
}

fn merge_list(old: Vec<Value>, patch: &[Value], field: &Field, owner: Option<&Type>) -> Result<Vec<Value>> {
    if patch.iter().chain(&old).any(Value::is_array) {
        return Err(unprocessable("lists of lists are not supported".to_owned()));
    }
    if !patch.iter().chain(&old).any(Value::is_object) {
        return Ok(merge_scalars(old, patch));
    }
    let key = field.patch_key;
    if key.is_empty() {
        let name = owner.map_or("", Type::short);
        return Err(unprocessable(format!("cannot merge lists without merge key for {name}")));
    }
    let item_type = match &field.shape {
        Shape::List(item) => item.target(),
        _ => None,
    };
    let (mut list, patch) = apply_item_directives(old.clone(), patch, key)?;
    for item in &patch {
        let id = merge_key(item, key)?;
        match list.iter().position(|o| o.get(key) == Some(id)) {
            Some(at) => {
                let (Value::Object(old), Value::Object(item)) = (list[at].take(), item) else { continue };
                list[at] = Value::Object(merge_map(old, item, item_type)?);
            }
            None => list.push(cleaned(item)),
        }
    }
    Ok(ordered(list, &patch, &old, key))
}

fn merge_scalars(old: Vec<Value>, patch: &[Value]) -> Vec<Value> {
    let mut merged: Vec<Value> = Vec::with_capacity(old.len() + patch.len());
    for item in old.iter().chain(patch) {
        if !merged.contains(item) {
            merged.push(item.clone());
        }
    }
    ordered(merged, patch, &old, "")
}

/// Items with `$patch`: delete removes an item of the original, replace all of them. Returns what is left of
/// the original and of the patch.
fn apply_item_directives(
    mut old: Vec<Value>,
    patch: &[Value],
    key: &str,
) -> Result<(Vec<Value>, Vec<Value>)> {
    let (mut rest, mut replace) = (Vec::new(), false);
    for item in patch {
        match item.get(PATCH).map(|p| p.as_str().unwrap_or_default()) {
            None => rest.push(item.clone()),
            Some("delete") => {
                let id = merge_key(item, key)?;
                old.retain(|o| o.get(key) != Some(id));
            }
            Some("replace") => replace = true,
            Some("merge") => {
                return Err(unprocessable("merging lists cannot yet be specified in the patch".to_owned()));
            }
            Some(other) => return Err(Status::bad_request(format!("unknown patch type found: {other}"))),
        }
    }
    if replace {
        old.clear();
    }
    Ok((old, rest))
}

fn merge_key<'a>(item: &'a Value, key: &str) -> Result<&'a Value> {
    item.get(key)
        .ok_or_else(|| unprocessable(format!("map: {item} does not contain declared merge key: {key}")))
}

fn unprocessable(text: String) -> Status {
    Status::new(Reason::Invalid, text)
}

fn set_order(
    original: &mut Json,
    name: &str,
    order: &Value,
    before: Option<&Value>,
    patch: &Json,
    key: &str,
) -> Result<()> {
    let malformed = || Status::bad_request("invalid patch format of setElementOrder list");
    let order = order.as_array().ok_or_else(malformed)?;
    let named = patch.get(name).and_then(Value::as_array).into_iter().flatten();
    let mut positions = named.filter(|i| i.get(PATCH).is_none()).map(|item| position(order, item, key));
    let mut last = None;
    if !positions.all(|p| p.is_some() && p > std::mem::replace(&mut last, p)) {
        let text = format!(
            "The order in patch list:\n{}\n doesn't match {ORDER} list:\n{}",
            patch[name],
            Value::Array(order.clone())
        );
        return Err(Status::bad_request(text));
    }
    let before = before.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if let Some(Value::Array(list)) = original.get_mut(name) {
        *list = ordered(std::mem::take(list), order, before, key);
    }
    Ok(())
}

/// Where an item is in a list, by key or (without one) by value.
fn position(list: &[Value], item: &Value, key: &str) -> Option<usize> {
    if key.is_empty() {
        return list.iter().position(|other| other == item);
    }
    let id = item.get(key)?;
    list.iter().position(|other| other.get(key) == Some(id))
}

/// The list in the order of a patch, with what the patch does not name where the server had it.
fn ordered(list: Vec<Value>, patch: &[Value], server: &[Value], key: &str) -> Vec<Value> {
    let (mut named, mut others): (Vec<_>, Vec<_>) =
        list.into_iter().partition(|item| position(patch, item, key).is_some());
    named.sort_by_key(|item| position(patch, item, key));
    others.sort_by_key(|item| position(server, item, key));
    let size = named.len() + others.len();
    let mut merged = Vec::with_capacity(size);
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    while let (Some(n), Some(o)) = (named.peek(), others.peek()) {
        let (at_named, at_other) = (position(server, n, key), position(server, o, key));
        let other_first = at_named.is_some() && at_other.is_some() && at_other < at_named;
        merged.extend(if other_first { others.next() } else { named.next() });
    }
    merged.extend(named);
    merged.extend(others);
    merged
}

fn without_directive(patch: &Json) -> Json {
    patch
        .iter()
        .filter(|(name, _)| *name != PATCH)
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// A value of a patch that has no counterpart: nulls delete nothing, directives have nothing to act on.
fn cleaned(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let fields = map.iter().filter(|(name, value)| !is_directive(name) && !value.is_null());
            Value::Object(fields.map(|(name, value)| (name.clone(), cleaned(value))).collect())
        }
        Value::Array(items) => {
            let kept = items.iter().filter(|i| i.get(PATCH).is_none());
            Value::Array(kept.map(cleaned).collect())
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests;

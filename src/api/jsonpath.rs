//! The JSONPath that `additionalPrinterColumns` and `selectableFields` use: `.spec.items[0].name`,
//! `.a['b.c']`, `[*]`, `[?(@.type=="Ready")]`, `..name`. Parsed once, evaluated without further parsing.

use serde_json::Value;

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath {
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    Every,
    Deep(String),
    Filter { path: Vec<Step>, operator: Operator, value: Value },
    Has(Vec<Step>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

const OPERATORS: [(&str, Operator); 6] = [
    ("==", Operator::Equal),
    ("!=", Operator::NotEqual),
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("<", Operator::Less),
    (">", Operator::Greater),
];

impl JsonPath {
    /// Parses a path, with or without braces around it and `$` or `.` before it.
    ///
    /// # Errors
    /// A text that says what is malformed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let inner = text.trim();
        let inner = inner.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(inner);
        let inner = inner.strip_prefix('$').or_else(|| inner.strip_prefix('@')).unwrap_or(inner);
        parse_steps(inner).map(|steps| Self { steps }).map_err(|e| format!("unrecognized path {text:?}: {e}"))
    }

    /// Every value at this path, in order.
    pub fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        walk(&self.steps, value)
    }

    /// Every value at this path in an object, in order.
    pub fn find_in<'a>(&self, object: &'a crate::Object) -> Vec<&'a Value> {
        match self.steps.split_first() {
            Some((Step::Field(name), rest)) => object.0.get(name).map(|v| walk(rest, v)).unwrap_or_default(),
            Some((Step::Deep(name), rest)) => {
                let mut found: Vec<_> = object.0.get(name).into_iter().collect();
                object.0.values().for_each(|v| deep(name, v, &mut found));
                found.into_iter().flat_map(|v| walk(rest, v)).collect()
            }
            Some((Step::Every, rest)) => object.0.values().flat_map(|v| walk(rest, v)).collect(),
            _ => Vec::new(),
        }
    }

    /// The field names of a path of plain fields only, as `selectableFields` needs it.
    pub fn plain_fields(&self) -> Option<Vec<&str>> {
        self.steps
            .iter()
            .map(|s| if let Step::Field(name) = s { Some(name.as_str()) } else { None })
            .collect()
    }
}

fn parse_steps(mut rest: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    while !rest.is_empty() {
        let (step, length) = if let Some(deep) = rest.strip_prefix("..") {
            let name = &deep[..name_end(deep)];
            (Step::Deep(name.to_owned()), 2 + name.len())
        } else if let Some(field) = rest.strip_prefix('.') {
            let raw = &field[..name_end(field)];
            if raw.is_empty() && !field.starts_with('[') {
                if field.is_empty() && steps.is_empty() {
                    return Ok(steps);
                }
                return Err("empty field name".into());
            }
            let step = if raw == "*" { Step::Every } else { Step::Field(raw.replace("\\.", ".")) };
            if raw.is_empty() {
                rest = field;
                continue;
            }
            (step, 1 + raw.len())
        } else if rest.starts_with('[') {
            let end = bracket_end(rest).ok_or("unterminated array")?;
            (parse_bracket(&rest[1..end])?, end + 1)
        } else if steps.is_empty() {
            let raw = &rest[..name_end(rest)];
            (Step::Field(raw.to_owned()), raw.len())
        } else {
            return Err(format!("unexpected {rest:?}"));
        };
        steps.push(step);
        rest = &rest[length..];
    }
    Ok(steps)
}

/// Where a field name ends: before a `.` that is not escaped, or a `[`.
fn name_end(text: &str) -> usize {
    let mut escaped = false;
    for (i, c) in text.char_indices() {
        if !escaped && matches!(c, '.' | '[') {
            return i;
        }
        escaped = !escaped && c == '\\';
    }
    text.len()
}

/// The position of the bracket that closes the first one, outside of quotes.
fn bracket_end(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') => {
                depth -= 1;
                if depth == 0 {
                    return Some(i);
                }
            }
            _ => {}
        }
    }
    None
}

fn parse_bracket(inner: &str) -> Result<Step, String> {
    let inner = inner.trim();
    if inner == "*" {
        return Ok(Step::Every);
    }
    if let Some(filter) = inner.strip_prefix("?(").and_then(|f| f.strip_suffix(')')) {
        return parse_filter(filter.trim());
    }
    if let Some(name) = unquote(inner) {
        return Ok(Step::Field(name.to_owned()));
    }
    inner.parse().map(Step::Index).map_err(|_| format!("invalid array index {inner}"))
}

fn parse_filter(text: &str) -> Result<Step, String> {
    let left = |l: &str| parse_steps(l.trim().strip_prefix('@').ok_or("a filter starts with @")?);
    for (i, _) in text.char_indices() {
        for (symbol, operator) in OPERATORS {
            if let Some(right) = text[i..].strip_prefix(symbol) {
                let right = right.trim();
                let value = match unquote(right) {
                    Some(string) => Value::from(string),
                    None => serde_json::from_str(right).map_err(|_| format!("invalid value {right}"))?,
                };
                return Ok(Step::Filter { path: left(&text[..i])?, operator, value });
            }
        }
    }
    left(text).map(Step::Has)
}

fn unquote(text: &str) -> Option<&str> {
    let inner = |q: char| text.strip_prefix(q)?.strip_suffix(q);
    inner('\'').or_else(|| inner('"'))
}

fn walk<'a>(steps: &[Step], value: &'a Value) -> Vec<&'a Value> {
    let mut found = vec![value];
    for step in steps {
        let mut next = Vec::new();
        for value in found {
            advance(step, value, &mut next);
        }
        found = next;
    }
    found
}

fn advance<'a>(step: &Step, value: &'a Value, out: &mut Vec<&'a Value>) {
    let items = || value.as_array().into_iter().flatten();
    match step {
        Step::Field(name) => out.extend(value.get(name)),
        Step::Index(i) => {
            let Some(list) = value.as_array() else { return };
            let length = i64::try_from(list.len()).unwrap_or(i64::MAX);
            let i = if *i < 0 { i + length } else { *i };
            out.extend(usize::try_from(i).ok().and_then(|i| list.get(i)));
        }
        Step::Every => match value {
            Value::Array(list) => out.extend(list),
            Value::Object(map) => out.extend(map.values()),
            _ => {}
        },
        Step::Deep(name) => deep(name, value, out),
        Step::Has(path) => out.extend(items().filter(|item| !walk(path, item).is_empty())),
        Step::Filter { path, operator, value } => {
            out.extend(items().filter(|item| walk(path, item).iter().any(|v| holds(v, *operator, value))));
        }
    }
}

fn deep<'a>(name: &str, value: &'a Value, out: &mut Vec<&'a Value>) {
    match value {
        Value::Array(list) => list.iter().for_each(|v| deep(name, v, out)),
        Value::Object(map) => {
            out.extend(map.get(name));
            map.values().for_each(|v| deep(name, v, out));
        }
        _ => {}
    }
}

fn holds(left: &Value, operator: Operator, right: &Value) -> bool {
    let order = match (left, right) {
        (Value::Number(l), Value::Number(r)) => l.as_f64().partial_cmp(&r.as_f64()),
        (Value::String(l), Value::String(r)) => Some(l.cmp(r)),
        (l, r) if l == r => Some(std::cmp::Ordering::Equal),
        _ => None,
    };
    match (operator, order) {
        (Operator::Equal, order) => order.is_some_and(std::cmp::Ordering::is_eq),
        (Operator::NotEqual, order) => !order.is_some_and(std::cmp::Ordering::is_eq),
        (Operator::Less, Some(order)) => order.is_lt(),
        (Operator::LessOrEqual, Some(order)) => order.is_le(),
        (Operator::Greater, Some(order)) => order.is_gt(),
        (Operator::GreaterOrEqual, Some(order)) => order.is_ge(),
        (_, None) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths() {
        let value = json!({"metadata": {"name": "x", "annotations": {"a.b/c": "d"}}, "spec": {"l": [{"n": 1},
            {"n": 2}]}, "status": {"conditions": [{"type": "A", "status": "False"}, {"type": "Ready", "status": "True"}]}});
        for (path, expect) in [
            (".metadata.name", json!(["x"])),
            ("{.metadata.name}", json!(["x"])),
            ("metadata.name", json!(["x"])),
            (".metadata.annotations.a\\.b/c", json!(["d"])),
            (".metadata.annotations['a.b/c']", json!(["d"])),
            (".spec.l[0].n", json!([1])),
            (".spec.l[-1].n", json!([2])),
            (".spec.l[*].n", json!([1, 2])),
            (".spec.l[?(@.n>1)].n", json!([2])),
            (".status.conditions[?(@.type==\"Ready\")].status", json!(["True"])),
            (".status.conditions[?(@.type=='Ready')].status", json!(["True"])),
            ("..n", json!([1, 2])),
            (".spec.none", json!([])),
        ] {
            let found = JsonPath::parse(path).unwrap();
            assert_eq!(json!(found.find(&value)), expect, "{path}");
        }
        for bad in [".a[", ".a[x]", ".a..b.", ".a[?(n>1)]"] {
            assert!(JsonPath::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(JsonPath::parse(".a.b").unwrap().plain_fields(), Some(vec!["a", "b"]));
    }
}

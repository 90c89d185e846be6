//! Label and field selectors: parsing with Kubernetes' grammar and texts, and matching.
//!
//! Keeps true: a parsed selector matches without allocating. Which fields a kind offers is left to `fields`.

use std::fmt;

use serde_json::{Map, Value};

use crate::{Result, Status, field::FieldError, field::Path, name};

mod field;
mod parse;

pub use field::{FieldSelector, FieldTerm};
use parse::Parser;

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The names are the documentation.
pub enum Operator {
    Equals,
    DoubleEquals,
    NotEquals,
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// How it is compared.
    pub operator: Operator,
    /// With what; sorted, without duplicates.
    pub values: Vec<String>,
}

impl Requirement {
    fn new(key: &str, operator: Operator, mut values: Vec<String>) -> Self {
        values.sort();
        values.dedup();
        Self { key: key.to_owned(), operator, values }
    }

    /// The mistakes in this requirement, as `labels.NewRequirement` words them.
    fn errors(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let (path, values) = (Path::root(), Path::new("values"));
        if let Some(text) = joined(name::qualified_name(&self.key)) {
            errors.push(FieldError::invalid(&path.child("key"), self.key.as_str(), text));
        }
        let (wrong, text) = match self.operator {
            Operator::In | Operator::NotIn => {
                (self.values.is_empty(), "for 'in', 'notin' operators, values set can't be empty")
            }
            Operator::Exists | Operator::DoesNotExist => {
                (!self.values.is_empty(), "values set must be empty for exists and does not exist")
            }
            Operator::GreaterThan | Operator::LessThan => {
                (self.values.len() != 1, "for 'Gt', 'Lt' operators, exactly one value is required")
            }
            _ => (self.values.len() != 1, "exact-match compatibility requires one single value"),
        };
        if wrong {
            errors.push(FieldError::invalid(&values, self.values.clone(), text));
        }
        let ordered = matches!(self.operator, Operator::GreaterThan | Operator::LessThan);
        for (i, value) in self.values.iter().enumerate() {
            if ordered && value.parse::<i64>().is_err() {
                let text = "for 'Gt', 'Lt' operators, the value must be an integer";
                errors.push(FieldError::invalid(&values.index(i), value.as_str(), text));
            }
            if let Some(text) = joined(name::label_value(value)) {
                errors.push(FieldError::invalid(&values.index(i).key(&self.key), value.as_str(), text));
            }
        }
        errors
    }

    /// Whether a label's value (or its absence) satisfies this requirement.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let among = |value: &str| self.values.iter().any(|v| v == value);
        match self.operator {
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Equals | Operator::DoubleEquals | Operator::In => value.is_some_and(among),
            Operator::NotEquals | Operator::NotIn => !value.is_some_and(among),
            Operator::GreaterThan | Operator::LessThan => {
                let left = value.and_then(|v| v.parse::<i64>().ok());
                let right = self.values.first().and_then(|v| v.parse::<i64>().ok());
                match (left, right) {
                    (Some(l), Some(r)) => {
                        (self.operator == Operator::GreaterThan && l > r)
                            || (self.operator == Operator::LessThan && l < r)
                    }
                    _ => false,
                }
            }
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self.values.join(",");
        let key = &self.key;
        match self.operator {
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

/// Conditions on labels, all of which must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl LabelSelector {
    /// Matches every object.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Matches no object.
    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }

    /// Parses the query-string form: `app=web,tier in (a,b),!old`.
    ///
    /// # Errors
    /// 400 with apimachinery's text.
    pub fn parse(text: &str) -> Result<Self> {
        let mut requirements = Parser::new(text).parse().map_err(Status::bad_request)?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }

    /// Reads the object form: `{matchLabels, matchExpressions}`. An absent (null) selector matches nothing, an
    /// empty one everything, as `metav1.LabelSelectorAsSelector` has it.
    ///
    /// # Errors
    /// 400 when an operator, key or value is malformed.
    pub fn from_value(value: Option<&Value>) -> Result<Self> {
        let Some(selector) = value.and_then(Value::as_object) else { return Ok(Self::nothing()) };
        let mut requirements = Vec::new();
        for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            requirements.push(Requirement::new(key, Operator::In, vec![value]));
        }
        for expression in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            requirements.push(expression_requirement(expression)?);
        }
        for requirement in &requirements {
            if let Some(error) = requirement.errors().first() {
                return Err(Status::bad_request(error.to_string()));
            }
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }

    /// Equality with every entry of a plain map (`spec.selector` of a Service).
    pub fn from_map(map: &Map<String, Value>) -> Self {
        let requirement = |(key, value): (&String, &Value)| {
            Requirement::new(key, Operator::Equals, vec![value.as_str().unwrap_or_default().to_owned()])
        };
        Self { requirements: map.iter().map(requirement).collect(), nothing: false }
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: Option<&Map<String, Value>>) -> bool {
        !self.nothing
            && self.requirements.iter().all(|r| {
                let value = labels.and_then(|l| l.get(&r.key)).and_then(Value::as_str);
                r.matches(value)
            })
    }

    /// Whether every object is selected.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// The conditions, sorted by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            write!(f, "{}{requirement}", if i > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

fn expression_requirement(expression: &Value) -> Result<Requirement> {
    let key = expression["key"].as_str().unwrap_or_default();
    let operator = match expression["operator"].as_str().unwrap_or_default() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        other => {
            return Err(Status::bad_request(format!("{other:?} is not a valid label selector operator")));
        }
    };
    let values = expression["values"].as_array().into_iter().flatten();
    let values = values.map(|v| v.as_str().unwrap_or_default().to_owned()).collect();
    Ok(Requirement::new(key, operator, values))
}

fn joined(errors: Vec<String>) -> Option<String> {
    (!errors.is_empty()).then(|| errors.join("; "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn label_selectors_match() {
        let labels = json!({"app": "web", "n": "5", "in": "x", "empty": ""});
        for (text, expect) in [
            ("", true),
            ("app", true),
            ("!app", false),
            ("app=web", true),
            ("app==web", true),
            ("app!=web", false),
            ("other!=web", true),
            ("app in (web, db)", true),
            ("app in (a,b)", false),
            ("app notin (a,b)", true),
            ("other notin (a)", true),
            ("n>4,n<6", true),
            ("n > 5", false),
            ("in in (x)", true),
            ("empty=", true),
            ("empty in (,x)", true),
            ("app=web,!zzz , n", true),
            ("other", false),
        ] {
            let selector = LabelSelector::parse(text).unwrap();
            assert_eq!(selector.matches(labels.as_object()), expect, "{text}");
            let again = LabelSelector::parse(&selector.to_string()).unwrap();
            assert_eq!(again, selector, "{text}");
        }
    }

    #[test]
    fn label_selector_errors() {
        for (text, expect) in [
            ("=x", "found '=', expected: !, identifier, or 'end of string'"),
            ("a=b,", "found '', expected: identifier after ','"),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a in b", "unable to parse requirement: found 'b' expected: '('"),
            ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("a=(", "unable to parse requirement: found '(', expected: identifier"),
            (
                "a>b",
                "unable to parse requirement: values[0]: Invalid value: \"b\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
        ] {
            let status = LabelSelector::parse(text).unwrap_err();
            assert_eq!((status.code(), status.message()), (400, expect), "{text}");
        }
        let status = LabelSelector::parse("a=-").unwrap_err();
        assert!(
            status.message().contains("values[0][a]: Invalid value: \"-\": a valid label must"),
            "{status}"
        );
        let status = LabelSelector::parse("-a").unwrap_err();
        assert!(status.message().contains("<nil>: Invalid value: \"-a\": name part must"), "{status}");
    }

    #[test]
    fn object_selectors() {
        let labels = json!({"app": "web", "tier": "a"});
        for (selector, expect) in [
            (json!(null), false),
            (json!({}), true),
            (json!({"matchLabels": {"app": "web"}}), true),
            (json!({"matchLabels": {"app": "x"}}), false),
            (json!({"matchExpressions": [{"key": "tier", "operator": "In", "values": ["a", "b"]}]}), true),
            (json!({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}), false),
        ] {
            let parsed = LabelSelector::from_value(Some(&selector)).unwrap();
            assert_eq!(parsed.matches(labels.as_object()), expect, "{selector}");
        }
        let bad = json!({"matchExpressions": [{"key": "a", "operator": "Is"}]});
        let text = LabelSelector::from_value(Some(&bad)).unwrap_err().to_string();
        assert_eq!(text, "\"Is\" is not a valid label selector operator");
    }
}

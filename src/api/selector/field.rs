//! Field selectors: equality of fields. Which fields a kind offers is left to `fields`.

use std::fmt;

use crate::{Result, Status};

/// One condition on one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    /// The field's path (`spec.nodeName`).
    pub field: String,
    /// Whether it must equal the value, or must not.
    pub equal: bool,
    /// The value.
    pub value: String,
}

/// Conditions on fields, all of which must hold: `spec.nodeName=w1,status.phase!=Failed`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

impl FieldSelector {
    /// Parses the query-string form.
    ///
    /// # Errors
    /// 400 when a term has no operator or an escape is malformed.
    pub fn parse(text: &str) -> Result<Self> {
        let mut terms = Vec::new();
        for term in split_terms(text) {
            let invalid = |why| Status::bad_request(format!("invalid selector: '{text}'; {why}"));
            let (field, equal, raw) =
                split_term(term).ok_or_else(|| invalid(format!("can't understand '{term}'")))?;
            let value =
                unescape(raw).ok_or_else(|| invalid(format!("invalid field selector value: {raw}")))?;
            terms.push(FieldTerm { field: field.to_owned(), equal, value });
        }
        Ok(Self { terms })
    }

    /// The conditions, in order.
    pub fn terms(&self) -> &[FieldTerm] {
        &self.terms
    }

    /// Whether every object is selected.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether an object with these field values is selected; a field that is not listed is "".
    pub fn matches<K: AsRef<str>, V: AsRef<str>>(&self, fields: &[(K, V)]) -> bool {
        self.terms.iter().all(|term| {
            let found = fields.iter().find(|(name, _)| name.as_ref() == term.field);
            (found.map_or("", |(_, value)| value.as_ref()) == term.value) == term.equal
        })
    }

    /// The value that a field must have, where the selector says so (`metadata.name=x`).
    pub fn required(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.equal && t.field == field).map(|t| t.value.as_str())
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, t) in self.terms.iter().enumerate() {
            let (comma, operator) = (if i > 0 { "," } else { "" }, if t.equal { "=" } else { "!=" });
            let value = t.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(f, "{comma}{}{operator}{value}", t.field)?;
        }
        Ok(())
    }
}

/// Splits at commas that are not escaped; empty terms are skipped.
fn split_terms(text: &str) -> Vec<&str> {
    let (mut terms, mut start, mut escaped) = (Vec::new(), 0, false);
    for (i, c) in text.char_indices() {
        if !escaped && c == ',' {
            terms.push(&text[start..i]);
            start = i + 1;
        }
        escaped = !escaped && c == '\\';
    }
    terms.push(&text[start..]);
    terms.retain(|t| !t.is_empty());
    terms
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    for (i, _) in term.char_indices() {
        for (operator, equal) in [("!=", false), ("==", true), ("=", true)] {
            if let Some(value) = term[i..].strip_prefix(operator) {
                return Some((&term[..i], equal, value));
            }
        }
    }
    None
}

/// Undoes `\\`, `\,` and `\=`; anything else escaped, or not escaped, is malformed.
fn unescape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.push(chars.next().filter(|c| matches!(c, '\\' | ',' | '='))?),
            ',' | '=' => return None,
            c => out.push(c),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_selectors() {
        let fields = [("metadata.name", "a,b"), ("status.phase", "Running")];
        for (text, expect) in [
            ("", true),
            ("status.phase=Running", true),
            ("status.phase==Running,metadata.name!=x", true),
            ("status.phase!=Running", false),
            ("metadata.name=a\\,b", true),
            ("spec.nodeName=", true),
        ] {
            assert_eq!(FieldSelector::parse(text).unwrap().matches(&fields), expect, "{text}");
        }
        let text = FieldSelector::parse("abc").unwrap_err().to_string();
        assert_eq!(text, "invalid selector: 'abc'; can't understand 'abc'");
        assert_eq!(FieldSelector::parse("metadata.name=x").unwrap().required("metadata.name"), Some("x"));
    }
}

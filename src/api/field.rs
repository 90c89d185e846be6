//! Field paths and field errors, with the texts of apimachinery's `field` package.

use std::fmt;

use serde_json::Value;

/// Where in an object something is: `spec.containers[0].env[x]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    /// A path that starts with a field.
    pub fn new(field: &str) -> Self {
        Self(field.to_owned())
    }

    /// The empty path: the object itself.
    pub fn root() -> Self {
        Self::default()
    }

    /// A field of the object at this path.
    #[must_use]
    pub fn child(&self, field: &str) -> Self {
        match self.0.as_str() {
            "" => Self(field.to_owned()),
            path => Self(format!("{path}.{field}")),
        }
    }

    /// An item of the list at this path.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// An entry of the map at this path.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "<nil>" } else { &self.0 })
    }
}

/// What kind of mistake a field error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorType {
    /// A referenced value does not exist.
    NotFound,
    /// The value is missing.
    Required,
    /// The value must be unique and is not.
    Duplicate,
    /// The value is malformed.
    Invalid,
    /// The value is not one of those that are known.
    NotSupported,
    /// The value is well-formed but not allowed here.
    Forbidden,
    /// The value is too long.
    TooLong,
    /// The value is too short.
    TooShort,
    /// The list has too many items.
    TooMany,
    /// The list has too few items.
    TooFew,
    /// Something else failed while the field was looked at.
    Internal,
    /// The value's JSON type is wrong.
    TypeInvalid,
}

impl ErrorType {
    /// The cause's reason in a Status.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooShort => "FieldValueTooShort",
            Self::TooMany => "FieldValueTooMany",
            Self::TooFew => "FieldValueTooFew",
            Self::Internal => "InternalError",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooShort => "Too short",
            Self::TooMany => "Too many",
            Self::TooFew => "Too few",
            Self::Internal => "Internal error",
        }
    }
}

/// One mistake in one field of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// What kind of mistake.
    pub kind: ErrorType,
    /// Where.
    pub field: String,
    /// The offending value; `None` where the text does not show it.
    pub value: Option<Value>,
    /// What would be right; may be empty.
    pub detail: String,
}

impl FieldError {
    fn new(kind: ErrorType, path: &Path, value: Option<Value>, detail: impl Into<String>) -> Self {
        Self { kind, field: path.to_string(), value, detail: detail.into() }
    }

    /// `PATH: Required value: DETAIL`.
    pub fn required(path: &Path, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::Required, path, None, detail)
    }

    /// `PATH: Invalid value: VALUE: DETAIL`.
    pub fn invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::Invalid, path, Some(value.into()), detail)
    }

    /// `PATH: Unsupported value: VALUE: supported values: "A", "B"`, in the order given.
    pub fn not_supported<S: AsRef<str>>(path: &Path, value: impl Into<Value>, supported: &[S]) -> Self {
        let quoted: Vec<_> = supported.iter().map(|s| format!("{:?}", s.as_ref())).collect();
        let detail = match quoted.as_slice() {
            [] => String::new(),
            all => format!("supported values: {}", all.join(", ")),
        };
        Self::new(ErrorType::NotSupported, path, Some(value.into()), detail)
    }

    /// `PATH: Duplicate value: VALUE`.
    pub fn duplicate(path: &Path, value: impl Into<Value>) -> Self {
        Self::new(ErrorType::Duplicate, path, Some(value.into()), "")
    }

    /// `PATH: Forbidden: DETAIL`.
    pub fn forbidden(path: &Path, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::Forbidden, path, None, detail)
    }

    /// `PATH: Too long: may not be more than MAX bytes`.
    pub fn too_long(path: &Path, max: usize) -> Self {
        let unit = if max == 1 { "byte" } else { "bytes" };
        Self::new(ErrorType::TooLong, path, None, format!("may not be more than {max} {unit}"))
    }

    /// `PATH: Too many: ACTUAL: must have at most MAX items`.
    pub fn too_many(path: &Path, actual: usize, max: usize) -> Self {
        let unit = if max == 1 { "item" } else { "items" };
        Self::new(ErrorType::TooMany, path, Some(actual.into()), format!("must have at most {max} {unit}"))
    }

    /// `PATH: Not found: VALUE`.
    pub fn not_found(path: &Path, value: impl Into<Value>) -> Self {
        Self::new(ErrorType::NotFound, path, Some(value.into()), "")
    }

    /// `PATH: Internal error: DETAIL`.
    pub fn internal(path: &Path, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::Internal, path, None, detail)
    }

    /// `PATH: Invalid value: VALUE: DETAIL`, for a value of the wrong JSON type.
    pub fn type_invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::TypeInvalid, path, Some(value.into()), detail)
    }

    /// The error without the field, as in a Status cause.
    pub fn body(&self) -> String {
        let mut text = self.kind.text().to_owned();
        match &self.value {
            None => {}
            Some(Value::String(s)) => text.push_str(&format!(": {s:?}")),
            Some(value) => text.push_str(&format!(": {value}")),
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

impl std::error::Error for FieldError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_apimachinery() {
        fn check(error: FieldError, expect: &str) {
            assert_eq!(error.to_string(), expect);
        }
        let p = Path::new("spec").child("containers").index(0).child("name");
        check(FieldError::required(&p, ""), "spec.containers[0].name: Required value");
        check(
            FieldError::invalid(&p, "A", "must be lower"),
            "spec.containers[0].name: Invalid value: \"A\": must be lower",
        );
        check(
            FieldError::invalid(&Path::new("spec").child("replicas"), -1, "must be >= 0"),
            "spec.replicas: Invalid value: -1: must be >= 0",
        );
        check(FieldError::duplicate(&Path::new("a").key("x/y"), "b"), "a[x/y]: Duplicate value: \"b\"");
        check(
            FieldError::not_supported(&Path::new("type"), "X", &["A", "B"]),
            "type: Unsupported value: \"X\": supported values: \"A\", \"B\"",
        );
        check(
            FieldError::too_long(&Path::new("metadata").child("name"), 63),
            "metadata.name: Too long: may not be more than 63 bytes",
        );
        check(FieldError::too_many(&Path::new("l"), 2, 1), "l: Too many: 2: must have at most 1 item");
        check(FieldError::forbidden(&Path::new("x"), "no"), "x: Forbidden: no");
    }
}

//! The options in a query, read and checked before anything is done: what is no number is a 400, options that do
//! not go together a 422 about `ListOptions.meta.k8s.io` and the like, both with upstream's texts.

use crate::request::Query;
use api::{
    catalog::GroupKind,
    field::{FieldError, Path},
    status::Status,
};

const MATCH: &str = "resourceVersionMatch";
const EXACT: &str = "Exact";
const NOT_OLDER: &str = "NotOlderThan";

/// What a list, a watch or a deletecollection asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ListOptions<'q> {
    /// At most so many objects; 0: all.
    pub(super) limit: usize,
    /// How long a watch may last; a negative time is over at once.
    pub(super) timeout_seconds: Option<i64>,
    pub(super) version: Option<&'q str>,
    pub(super) matching: Option<&'q str>,
    pub(super) token: Option<&'q str>,
    /// Whether a watch begins with the state, where it says so.
    pub(super) initial: Option<bool>,
}

impl<'q> ListOptions<'q> {
    /// Reads and checks them.
    pub(super) fn read(query: &'q Query, watch: bool) -> api::Result<Self> {
        let options = ListOptions {
            // A negative limit is none.
            limit: number(query, "limit")?.and_then(|n| usize::try_from(n).ok()).unwrap_or(0),
            timeout_seconds: number(query, "timeoutSeconds")?,
            version: query.get("resourceVersion"),
            matching: query.get(MATCH),
            token: query.get("continue"),
            initial: query.get("sendInitialEvents").map(|_| query.flag("sendInitialEvents")),
        };
        refuse("ListOptions", if watch { options.watch_errors() } else { options.list_errors() })?;
        Ok(options)
    }

    fn list_errors(&self) -> Vec<FieldError> {
        let (path, mut errors) = (Path::new(MATCH), Vec::new());
        if let Some(matching) = self.matching {
            if self.version.is_none() {
                let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
                errors.push(FieldError::forbidden(&path, why));
            }
            errors.extend(self.continued());
            if ![EXACT, NOT_OLDER].contains(&matching) {
                errors.push(FieldError::not_supported(&path, matching, &[EXACT, NOT_OLDER, ""]));
            }
            if matching == EXACT && self.version == Some("0") {
                let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
                errors.push(FieldError::forbidden(&path, why));
            }
        }
        if self.initial.is_some() {
            let path = Path::new("sendInitialEvents");
            errors.push(FieldError::forbidden(&path, "sendInitialEvents is forbidden for list"));
        }
        errors
    }

    fn watch_errors(&self) -> Vec<FieldError> {
        let (path, mut errors) = (Path::new(MATCH), Vec::new());
        if self.initial.is_some() && self.matching != Some(NOT_OLDER) {
            let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            errors.push(FieldError::forbidden(&path, why));
        }
        if let Some(matching) = self.matching {
            if self.initial.is_none() {
                let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
                errors.push(FieldError::forbidden(&path, why));
            }
            if matching != NOT_OLDER {
                errors.push(FieldError::not_supported(&path, matching, &[NOT_OLDER]));
            }
            errors.extend(self.continued());
        }
        errors
    }

    fn continued(&self) -> Option<FieldError> {
        let why = "resourceVersionMatch is forbidden when continue is provided";
        self.token.map(|_| FieldError::forbidden(&Path::new(MATCH), why))
    }
}

/// Checks what a write's query says beside the object, and says whether it is a dry run.
pub(super) fn write(query: &Query, verb: &str) -> api::Result<bool> {
    let kind = match verb {
        "create" => "CreateOptions",
        "update" => "UpdateOptions",
        "patch" => "PatchOptions",
        "delete" | "deletecollection" => "DeleteOptions",
        _ => return Ok(false),
    };
    let dry_run = dry_run(kind, query.all("dryRun"))?;
    let validation = query.get("fieldValidation").filter(|_| kind != "DeleteOptions");
    if let Some(other) = validation.filter(|v| !["Ignore", "Strict", "Warn"].contains(v)) {
        let known = ["", "Ignore", "Strict", "Warn"];
        let error = FieldError::not_supported(&Path::new("fieldValidation"), other, &known);
        refuse(kind, vec![error])?;
    }
    Ok(dry_run)
}

/// Whether the `dryRun` values of some options ask for a dry run.
pub(super) fn dry_run(kind: &str, values: &[String]) -> api::Result<bool> {
    let values: Vec<&String> = values.iter().filter(|v| !v.is_empty()).collect();
    if values.iter().any(|v| *v != "All") {
        let all: Vec<String> = values.into_iter().cloned().collect();
        refuse(kind, vec![FieldError::not_supported(&Path::new("dryRun"), all, &["All"])])?;
        return Ok(false);
    }
    Ok(!values.is_empty())
}

/// 422 about options with mistakes.
pub(super) fn refuse(kind: &str, errors: Vec<FieldError>) -> api::Result<()> {
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Status::invalid(&GroupKind::new("meta.k8s.io", kind), "", errors)),
    }
}

/// A number in the query, in the words of Go's parser where it is none.
pub(super) fn number(query: &Query, name: &str) -> api::Result<Option<i64>> {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    let Some(text) = query.get(name) else { return Ok(None) };
    text.parse().map(Some).map_err(|error: std::num::ParseIntError| {
        let why = match error.kind() {
            PosOverflow | NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: {why}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_do_not_go_together() {
        let check = |watch: bool, query: &str, expect: &str| {
            let query = Query::parse(query);
            let got = ListOptions::read(&query, watch).map(|_| String::new());
            let got = got.unwrap_or_else(|s| format!("{} {}", s.code(), s.message()));
            assert!(got.starts_with(expect) && got.is_empty() == expect.is_empty(), "{query:?}: {got}");
        };
        let invalid = |text: &str| format!("422 ListOptions.meta.k8s.io \"\" is invalid: {text}");
        check(false, "limit=5&resourceVersion=1&resourceVersionMatch=Exact&timeoutSeconds=-1", "");
        check(false, "limit=-3", "");
        check(false, "limit=x", "400 strconv.ParseInt: parsing \"x\": invalid syntax");
        check(
            false,
            "limit=9223372036854775808",
            "400 strconv.ParseInt: parsing \"9223372036854775808\": value",
        );
        check(true, "timeoutSeconds=1.5", "400 strconv.ParseInt: parsing \"1.5\": invalid syntax");
        let check_match = |watch, query: &str, text: &str| {
            check(watch, query, &invalid(&format!("resourceVersionMatch: {text}")));
        };
        check_match(
            false,
            "resourceVersionMatch=Exact",
            "Forbidden: resourceVersionMatch is forbidden unless",
        );
        check_match(
            false,
            "resourceVersion=1&resourceVersionMatch=Newer",
            "Unsupported value: \"Newer\": supported values: \"Exact\", \"NotOlderThan\", \"\"",
        );
        check_match(
            false,
            "resourceVersion=0&resourceVersionMatch=Exact",
            "Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        );
        check_match(true, "sendInitialEvents=true", "Forbidden: sendInitialEvents requires setting");
        check_match(
            true,
            "resourceVersionMatch=NotOlderThan",
            "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        );
        check(true, "sendInitialEvents=true&resourceVersionMatch=NotOlderThan", "");
        check(
            false,
            "sendInitialEvents=false",
            &invalid("sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"),
        );
    }

    #[test]
    fn options_of_writes() {
        let check = |verb: &str, query: &str, expect: Result<bool, &str>| {
            let got = write(&Query::parse(query), verb).map_err(|s| s.message().to_string());
            assert_eq!(got, expect.map_err(str::to_string), "{verb} {query}");
        };
        check("create", "dryRun=All&fieldValidation=Strict", Ok(true));
        check("list", "dryRun=x&fieldValidation=x", Ok(false));
        check(
            "delete",
            "dryRun=x&fieldValidation=y",
            Err(
                "DeleteOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"x\"]: supported values: \"All\"",
            ),
        );
        check(
            "patch",
            "fieldValidation=strict",
            Err("PatchOptions.meta.k8s.io \"\" is invalid: fieldValidation: Unsupported value: \"strict\": \
                 supported values: \"\", \"Ignore\", \"Strict\", \"Warn\""),
        );
    }
}

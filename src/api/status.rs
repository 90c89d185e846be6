//! Every error that the API gives, in one list: reason, code, message (meta/v1 Status).
//!
//! Keeps true: the JSON is what kube-apiserver sends. HTTP status codes are known here only.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    catalog::{GroupKind, GroupResource},
    field::FieldError,
};

/// Why a request failed, in one word that clients act on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // The names are the documentation: meta/v1 StatusReason.
pub enum Reason {
    #[default]
    #[serde(rename = "")]
    Unknown,
    AlreadyExists,
    BadRequest,
    Conflict,
    Expired,
    Forbidden,
    Gone,
    InternalError,
    Invalid,
    MethodNotAllowed,
    NotAcceptable,
    NotFound,
    RequestEntityTooLarge,
    ServerTimeout,
    ServiceUnavailable,
    StoreReadError,
    Timeout,
    TooManyRequests,
    Unauthorized,
    UnsupportedMediaType,
}

impl Reason {
    /// The HTTP status code that goes with this reason.
    pub fn code(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::NotAcceptable => 406,
            Self::AlreadyExists | Self::Conflict => 409,
            Self::Expired | Self::Gone => 410,
            Self::RequestEntityTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::Invalid => 422,
            Self::TooManyRequests => 429,
            Self::InternalError | Self::ServerTimeout | Self::StoreReadError | Self::Unknown => 500,
            Self::ServiceUnavailable => 503,
            Self::Timeout => 504,
        }
    }
}

/// One of several causes of a failure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cause {
    /// A word for machines: `FieldValueRequired`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// A text for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The field, where it is about one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// What a failure is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Details {
    /// The object's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The object's API group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// The object's kind, or its resource where upstream says so.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// The object's uid.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Causes in detail.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// After how many seconds a retry makes sense.
    #[serde(skip_serializing_if = "is_zero")]
    pub retry_after_seconds: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// The answer to a request that failed; also the error type of everything that serves requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    code: u16,
    reason: Reason,
    message: String,
    details: Option<Box<Details>>,
    /// `metadata.continue`: where a list whose page expired can go on.
    next: Option<Box<str>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    metadata: ListMeta,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    status: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(default, skip_serializing_if = "is_unknown")]
    reason: Reason,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    details: Option<Box<Details>>,
    #[serde(default)]
    code: u16,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct ListMeta {
    #[serde(rename = "continue", skip_serializing_if = "Option::is_none")]
    next: Option<Box<str>>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_unknown(reason: &Reason) -> bool {
    *reason == Reason::Unknown
}

impl Serialize for Status {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let status = if self.code < 400 { "Success" } else { "Failure" };
        Wire {
            kind: "Status".into(),
            api_version: "v1".into(),
            metadata: ListMeta { next: self.next.clone() },
            status: status.into(),
            message: self.message.clone(),
            reason: self.reason,
            details: self.details.clone(),
            code: self.code,
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Status {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = Wire::deserialize(deserializer)?;
        let Wire { code, reason, message, details, metadata, .. } = wire;
        Ok(Self { code, reason, message, details, next: metadata.next })
    }
}

impl Status {
    /// A failure with the code that goes with its reason, without details.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { code: reason.code(), reason, message: message.into(), details: None, next: None }
    }

    /// The body of a successful answer that has no object (a deletion): about which object, with its uid.
    pub fn success(gr: &GroupResource, name: &str, uid: &str) -> Self {
        let details = Details { uid: uid.into(), ..about(&gr.group, &gr.resource, name) };
        let details = Some(details.into());
        Self { code: 200, reason: Reason::Unknown, message: String::new(), details, next: None }
    }

    /// 404: no such object.
    pub fn not_found(gr: &GroupResource, name: &str) -> Self {
        Self::new(Reason::NotFound, format!("{gr} {name:?} not found")).of(gr, name)
    }

    /// 404: no such path or resource.
    pub fn not_found_path() -> Self {
        let status = Self::new(Reason::NotFound, "the server could not find the requested resource");
        status.with_details(Details::default())
    }

    /// 409: an object of this name is there already.
    pub fn already_exists(gr: &GroupResource, name: &str) -> Self {
        Self::new(Reason::AlreadyExists, format!("{gr} {name:?} already exists")).of(gr, name)
    }

    /// 409: a generated name was taken.
    pub fn generate_name_conflict(gr: &GroupResource, name: &str) -> Self {
        let text = "the server was not able to generate a unique name for the object";
        Self::new(Reason::AlreadyExists, format!("{gr} {name:?} already exists, {text}")).of(gr, name)
    }

    /// 409: the object changed meanwhile, or its state forbids the operation.
    pub fn conflict(gr: &GroupResource, name: &str, message: impl fmt::Display) -> Self {
        let text = format!("Operation cannot be fulfilled on {gr} {name:?}: {message}");
        Self::new(Reason::Conflict, text).of(gr, name)
    }

    /// 409: the object changed since the client read it.
    pub fn modified(gr: &GroupResource, name: &str) -> Self {
        let text =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(gr, name, text)
    }

    /// 422: the object has mistakes.
    pub fn invalid(gk: &GroupKind, name: &str, errors: Vec<FieldError>) -> Self {
        let mut texts: Vec<String> = Vec::with_capacity(errors.len());
        let mut causes = Vec::with_capacity(errors.len());
        for error in errors {
            let text = error.to_string();
            if !texts.contains(&text) {
                texts.push(text);
            }
            let reason = error.kind.reason().to_owned();
            causes.push(Cause { reason, message: error.body(), field: error.field });
        }
        let message = match texts.as_slice() {
            [] => format!("{gk} {name:?} is invalid"),
            [one] => format!("{gk} {name:?} is invalid: {one}"),
            many => format!("{gk} {name:?} is invalid: [{}]", many.join(", ")),
        };
        let details = Details { causes, ..about(&gk.group, &gk.kind, name) };
        Self::new(Reason::Invalid, message).with_details(details)
    }

    /// 400: the request makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, message)
    }

    /// 403: this user may not do this, or a policy forbids it.
    pub fn forbidden(gr: &GroupResource, name: &str, message: impl fmt::Display) -> Self {
        let text = match (gr.resource.as_str(), name) {
            ("", _) => format!("forbidden: {message}"),
            (_, "") => format!("{gr} is forbidden: {message}"),
            _ => format!("{gr} {name:?} is forbidden: {message}"),
        };
        Self::new(Reason::Forbidden, text).of(gr, name)
    }

    /// 401: nobody knows who is asking.
    pub fn unauthorized() -> Self {
        Self::new(Reason::Unauthorized, "Unauthorized")
    }

    /// 405: this path does not have this method.
    pub fn method_not_allowed() -> Self {
        let text = "the server does not allow this method on the requested resource";
        Self::new(Reason::MethodNotAllowed, text).with_details(Details::default())
    }

    /// 405: this resource does not have this verb.
    pub fn method_not_supported(gr: &GroupResource, verb: &str) -> Self {
        let text = format!("{verb} is not supported on resources of kind \"{gr}\"");
        Self::new(Reason::MethodNotAllowed, text).of(gr, "")
    }

    /// 413: the body is too large.
    pub fn too_large(message: impl fmt::Display) -> Self {
        Self::new(Reason::RequestEntityTooLarge, format!("Request entity is too large: {message}"))
    }

    /// 415: the body is of a type that is not accepted here.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let types = accepted.join(", ");
        let text = "the body of the request was in an unknown format - accepted media types include";
        Self::new(Reason::UnsupportedMediaType, format!("{text}: {types}"))
    }

    /// 406: the client accepts nothing that can be sent.
    pub fn not_acceptable(available: &[&str]) -> Self {
        let types = available.join(", ");
        Self::new(Reason::NotAcceptable, format!("only the following media types are accepted: {types}"))
    }

    /// 410: a resourceVersion or continue token is too old.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(Reason::Expired, message)
    }

    /// 410: it was here and will not come back.
    pub fn gone(message: impl Into<String>) -> Self {
        Self::new(Reason::Gone, message)
    }

    /// 429: try again after some seconds.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::new(Reason::TooManyRequests, message).retry_after(retry_after_seconds)
    }

    /// 503: it cannot be served now.
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::new(Reason::ServiceUnavailable, message)
    }

    /// 504: it took too long; the outcome is not known.
    pub fn timeout(message: impl fmt::Display, retry_after_seconds: u32) -> Self {
        Self::new(Reason::Timeout, format!("Timeout: {message}")).retry_after(retry_after_seconds)
    }

    /// 500: it could not be completed in time; the client may try again.
    pub fn server_timeout(gr: &GroupResource, verb: &str, retry_after_seconds: u32) -> Self {
        let text = "could not be completed at this time, please try again.";
        let status = Self::new(Reason::ServerTimeout, format!("The {verb} operation against {gr} {text}"));
        status.of(gr, "").retry_after(retry_after_seconds)
    }

    /// 500: a fault of ours.
    pub fn internal(message: impl fmt::Display) -> Self {
        let cause = Cause { message: message.to_string(), ..Cause::default() };
        let details = Details { causes: vec![cause], ..Details::default() };
        Self::new(Reason::InternalError, format!("Internal error occurred: {message}")).with_details(details)
    }

    /// The HTTP status code.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// The reason, for machines.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The message, for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What it is about.
    pub fn details(&self) -> Option<&Details> {
        self.details.as_deref()
    }

    /// The same failure with another HTTP status code.
    #[must_use]
    pub fn with_code(mut self, code: u16) -> Self {
        self.code = code;
        self
    }

    /// The same failure with these details.
    #[must_use]
    pub fn with_details(mut self, details: Details) -> Self {
        self.details = Some(Box::new(details));
        self
    }

    /// The same failure with one more cause.
    #[must_use]
    pub fn with_cause(mut self, reason: &str, message: &str, field: &str) -> Self {
        let cause = Cause { reason: reason.into(), message: message.into(), field: field.into() };
        self.details.get_or_insert_default().causes.push(cause);
        self
    }

    /// The same failure with a token with which the list can go on.
    #[must_use]
    pub fn with_continue(mut self, token: &str) -> Self {
        self.next = Some(token.into());
        self
    }

    fn of(self, gr: &GroupResource, name: &str) -> Self {
        self.with_details(about(&gr.group, &gr.resource, name))
    }

    fn retry_after(mut self, seconds: u32) -> Self {
        if seconds > 0 {
            self.details.get_or_insert_default().retry_after_seconds = seconds;
        }
        self
    }
}

fn about(group: &str, kind: &str, name: &str) -> Details {
    Details { group: group.into(), kind: kind.into(), name: name.into(), ..Details::default() }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::field::Path;

    #[test]
    fn json_is_that_of_kube_apiserver() {
        fn check(status: &Status, expect: serde_json::Value) {
            let value = serde_json::to_value(status).unwrap();
            assert_eq!(value, expect);
            assert_eq!(&serde_json::from_value::<Status>(value).unwrap(), status);
        }
        check(
            &Status::not_found(&GroupResource::new("", "pods"), "x"),
            json!({"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure",
                "message":"pods \"x\" not found","reason":"NotFound",
                "details":{"name":"x","kind":"pods"},"code":404}),
        );
        check(
            &Status::expired("too old").with_continue("token"),
            json!({"kind":"Status","apiVersion":"v1","metadata":{"continue":"token"},"status":"Failure",
                "message":"too old","reason":"Expired","code":410}),
        );
        let errors = vec![
            FieldError::required(&Path::new("spec").child("selector"), ""),
            FieldError::invalid(
                &Path::new("spec").child("replicas"),
                -1,
                "must be greater than or equal to 0",
            ),
        ];
        check(
            &Status::invalid(&GroupKind::new("apps", "Deployment"), "d", errors),
            json!({"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure",
                "message":"Deployment.apps \"d\" is invalid: [spec.selector: Required value, spec.replicas: \
                           Invalid value: -1: must be greater than or equal to 0]",
                "reason":"Invalid","details":{"name":"d","group":"apps","kind":"Deployment","causes":[
                    {"reason":"FieldValueRequired","message":"Required value","field":"spec.selector"},
                    {"reason":"FieldValueInvalid","field":"spec.replicas",
                     "message":"Invalid value: -1: must be greater than or equal to 0"}]},"code":422}),
        );
        check(
            &Status::too_many_requests("slow down", 3),
            json!({"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"slow down",
                "reason":"TooManyRequests","details":{"retryAfterSeconds":3},"code":429}),
        );
        check(
            &Status::success(&GroupResource::new("apps", "deployments"), "d", "u"),
            json!({"kind":"Status","apiVersion":"v1","metadata":{},"status":"Success",
                "details":{"name":"d","group":"apps","kind":"deployments","uid":"u"},"code":200}),
        );
    }
}

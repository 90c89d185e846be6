//! Method and URL → [`RequestInfo`], by upstream's rules. Whether what is asked for exists is decided later, by
//! the catalog: authorisation comes first.

use crate::request::{Query, RequestInfo, decode};
use api::selector::FieldSelector;
use http::{Method, Uri};

/// Reads method and URL.
pub(crate) fn parse(method: &Method, uri: &Uri) -> RequestInfo {
    let info = RequestInfo {
        verb: lower(method),
        path: uri.path().to_string(),
        query: Query::parse(uri.query().unwrap_or_default()),
        ..RequestInfo::default()
    };
    let parts: Vec<String> =
        uri.path().trim_matches('/').split('/').map(|part| decode(part, false)).collect();
    match parts.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["api", version, rest @ ..] if !rest.is_empty() => resource(info, method, "", version, rest),
        ["apis", group, version, rest @ ..] if !rest.is_empty() => {
            resource(info, method, group, version, rest)
        }
        _ => info,
    }
}

fn resource(info: RequestInfo, method: &Method, group: &str, version: &str, parts: &[&str]) -> RequestInfo {
    let (watching, parts) = match parts {
        ["watch", rest @ ..] if !rest.is_empty() => (true, rest),
        all => (false, all),
    };
    let (namespace, parts) = match parts {
        ["namespaces", namespace, rest @ ..]
            if !rest.is_empty() && !["status", "finalize"].contains(&rest[0]) =>
        {
            (*namespace, rest)
        }
        ["namespaces", namespace, ..] => (*namespace, parts),
        _ => ("", parts),
    };
    let at = |i: usize| parts.get(i).copied().unwrap_or_default().to_string();
    let mut info = RequestInfo {
        is_resource: true,
        group: group.to_string(),
        version: version.to_string(),
        namespace: namespace.to_string(),
        resource: at(0),
        name: at(1),
        subresource: at(2),
        rest: parts.get(3..).unwrap_or_default().join("/"),
        ..info
    };
    info.verb = verb(method, watching, &info);
    if info.name.is_empty() && matches!(info.verb, "list" | "watch" | "deletecollection") {
        info.name = selected_name(&info).unwrap_or_default();
    }
    info
}

fn verb(method: &Method, watching: bool, info: &RequestInfo) -> &'static str {
    match *method {
        Method::GET | Method::HEAD if watching => "watch",
        Method::GET | Method::HEAD if info.name.is_empty() => {
            if info.query.flag("watch") {
                "watch"
            } else {
                "list"
            }
        }
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if info.name.is_empty() => "deletecollection",
        Method::DELETE => "delete",
        _ => lower(method),
    }
}

fn selected_name(info: &RequestInfo) -> Option<String> {
    let selector = FieldSelector::parse(info.query.get("fieldSelector")?).ok()?;
    selector.required("metadata.name").map(str::to_string)
}

fn lower(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::OPTIONS => "options",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_as_upstream_reads_them() {
        // verb group/version namespace resource/name/subresource
        let check = |method: Method, uri: &str, expect: &str| {
            let i = parse(&method, &uri.parse().unwrap());
            let text = match i.is_resource {
                true => format!(
                    "{} {} {} {}/{}/{} {}",
                    i.verb,
                    format!("{}/{}", i.group, i.version).trim_start_matches('/'),
                    i.namespace,
                    i.resource,
                    i.name,
                    i.subresource,
                    i.rest
                ),
                false => format!("{} {}", i.verb, i.path),
            };
            assert_eq!(text.trim_end(), expect, "{method} {uri}");
        };
        check(Method::GET, "/api/v1/pods", "list v1  pods//");
        check(Method::GET, "/api/v1/pods?watch=1", "watch v1  pods//");
        check(Method::GET, "/api/v1/pods?fieldSelector=metadata.name%3Dx", "list v1  pods/x/");
        check(Method::GET, "/api/v1/namespaces/a/pods/b/log", "get v1 a pods/b/log");
        check(Method::GET, "/api/v1/watch/namespaces/a/pods/b", "watch v1 a pods/b/");
        check(Method::PUT, "/api/v1/namespaces/a/status", "update v1 a namespaces/a/status");
        check(Method::GET, "/api/v1/namespaces/a", "get v1 a namespaces/a/");
        check(Method::GET, "/api/v1/namespaces", "list v1  namespaces//");
        check(
            Method::DELETE,
            "/apis/apps/v1/namespaces/a/deployments",
            "deletecollection apps/v1 a deployments//",
        );
        check(
            Method::PATCH,
            "/apis/apps/v1/namespaces/a/deployments/d/scale",
            "patch apps/v1 a deployments/d/scale",
        );
        check(Method::POST, "/api/v1/namespaces/a/pods/b%20c/proxy/x/y", "create v1 a pods/b c/proxy x/y");
        check(Method::GET, "/apis/apps/v1", "get /apis/apps/v1");
        check(Method::GET, "/api/v1", "get /api/v1");
        check(Method::POST, "/version", "post /version");
    }
}

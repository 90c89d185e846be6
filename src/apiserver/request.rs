//! What a request asks for: verb, resource and query, read once from method and URL.
//!
//! `router` makes it, everything behind it (authorisation, admission, the verbs) only reads it. The rules are
//! those of upstream's request info: <https://kubernetes.io/docs/reference/access-authn-authz/authorization/>.

use std::collections::BTreeMap;

/// What one request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestInfo {
    /// get, list, watch, create, update, patch, delete, deletecollection; for paths that are no resources the
    /// HTTP method in lower case.
    pub(crate) verb: &'static str,
    /// Whether the path names a resource (`/api/v1/...`, `/apis/GROUP/VERSION/...`).
    pub(crate) is_resource: bool,
    /// The path as it came, without the query.
    pub(crate) path: String,
    /// API group, empty for the core group.
    pub(crate) group: String,
    /// API version.
    pub(crate) version: String,
    /// The plural, e.g. `pods`.
    pub(crate) resource: String,
    /// e.g. `status`, empty when there is none.
    pub(crate) subresource: String,
    /// Namespace, empty when the path has none.
    pub(crate) namespace: String,
    /// Object name, empty for collections. For list and watch with the field selector `metadata.name=x` it is
    /// `x`, so that authorisation by name works.
    pub(crate) name: String,
    /// What follows the subresource in the path (proxy), without the leading slash.
    pub(crate) rest: String,
    /// The query's parameters.
    pub(crate) query: Query,
}

impl RequestInfo {
    /// Whether nothing is changed by this request.
    pub(crate) fn read_only(&self) -> bool {
        matches!(self.verb, "get" | "list" | "watch" | "head" | "options")
    }
}

/// The query's parameters, decoded, in order of their names; a parameter may occur several times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query {
    /// The raw query string, without the question mark.
    pub(crate) raw: String,
    values: BTreeMap<String, Vec<String>>,
}

impl Query {
    /// Reads a query string; nothing in it can fail, undecodable parts stay as they are.
    pub(crate) fn parse(raw: &str) -> Self {
        let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pair in raw.split('&').filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            values.entry(decode(name, true)).or_default().push(decode(value, true));
        }
        Query { raw: raw.to_string(), values }
    }

    /// The first value of a parameter; `None` when absent or empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).and_then(|v| v.first()).map(String::as_str).filter(|v| !v.is_empty())
    }

    /// All values of a parameter.
    pub(crate) fn all(&self, name: &str) -> &[String] {
        self.values.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether a boolean parameter is set: present and not `false` or `0`, as upstream's conversion has it.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.values
            .get(name)
            .and_then(|v| v.first())
            .is_some_and(|v| !matches!(v.to_lowercase().as_str(), "false" | "0"))
    }
}

/// Decodes percent escapes, and `+` as a space where `plus` says so.
pub(crate) fn decode(text: &str, plus: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = |b: Option<&u8>| b.and_then(|b| (*b as char).to_digit(16));
        match (bytes[i], hex(bytes.get(i + 1)), hex(bytes.get(i + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                i += 2;
            }
            (b'+', ..) if plus => out.push(b' '),
            (other, ..) => out.push(other),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let q = Query::parse(
            "labelSelector=app%3Dweb%2Ctier+in+(a)&watch=true&limit=&command=a&command=b&force=0",
        );
        assert_eq!(q.get("labelSelector"), Some("app=web,tier in (a)"));
        assert_eq!((q.flag("watch"), q.flag("force"), q.flag("absent")), (true, false, false));
        assert_eq!(q.get("limit"), None);
        assert_eq!(q.all("command"), ["a", "b"]);
        assert_eq!(decode("%zz%4", false), "%zz%4");
    }
}

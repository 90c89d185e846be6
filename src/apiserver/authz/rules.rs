//! One RBAC policy rule: what it allows, and whether a set of rules covers another.
//!
//! Pure: knows neither users nor bindings (those are in `rbac.rs`) nor where rules come from.
//! The semantics are those of `rbac.authorization.k8s.io/v1 PolicyRule`.

use serde::Deserialize;

use super::Ask;

/// A `PolicyRule` as stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Rule {
    #[serde(deserialize_with = "or_empty")]
    pub(crate) verbs: Vec<String>,
    #[serde(deserialize_with = "or_empty")]
    pub(crate) api_groups: Vec<String>,
    #[serde(deserialize_with = "or_empty")]
    pub(crate) resources: Vec<String>,
    #[serde(deserialize_with = "or_empty")]
    pub(crate) resource_names: Vec<String>,
    #[serde(rename = "nonResourceURLs", deserialize_with = "or_empty")]
    pub(crate) non_resource_urls: Vec<String>,
}

/// A JSON `null` list is an empty one.
fn or_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::<Vec<String>>::deserialize(deserializer)?.unwrap_or_default())
}

impl Rule {
    /// Whether this rule allows the request.
    pub(crate) fn allows(&self, ask: &Ask<'_>) -> bool {
        if !any(&self.verbs, |verb| verb == "*" || verb == ask.verb) {
            return false;
        }
        if !ask.is_resource {
            return any(&self.non_resource_urls, |url| url_matches(url, ask.path));
        }
        any(&self.api_groups, |group| group == "*" || group == ask.group)
            && any(&self.resources, |resource| resource_matches(resource, ask.resource, ask.subresource))
            && (self.resource_names.is_empty() || any(&self.resource_names, |name| name == ask.name))
    }

    /// The rule cut into pieces of one verb, group, resource and name each.
    fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        let urls = self
            .verbs
            .iter()
            .flat_map(move |verb| self.non_resource_urls.iter().map(move |url| Piece::Url { verb, url }));
        let resources = self.verbs.iter().flat_map(move |verb| {
            self.api_groups.iter().flat_map(move |group| {
                self.resources.iter().flat_map(move |resource| {
                    names(&self.resource_names).map(move |name| Piece::Resource {
                        verb,
                        group,
                        resource,
                        name,
                    })
                })
            })
        });
        resources.chain(urls)
    }
}

/// The smallest thing a rule can grant.
#[derive(Clone, Copy, Debug)]
enum Piece<'a> {
    Resource { verb: &'a str, group: &'a str, resource: &'a str, name: Option<&'a str> },
    Url { verb: &'a str, url: &'a str },
}

fn names(list: &[String]) -> impl Iterator<Item = Option<&str>> {
    let all = list.is_empty().then_some(None);
    all.into_iter().chain(list.iter().map(|name| Some(name.as_str())))
}

fn any(list: &[String], matches: impl Fn(&str) -> bool) -> bool {
    list.iter().any(|item| matches(item))
}

fn url_matches(rule: &str, path: &str) -> bool {
    rule == path || rule.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    match rule.split_once('/') {
        _ if rule == "*" => true,
        None => subresource.is_empty() && rule == resource,
        Some(("*", sub)) => !subresource.is_empty() && sub == subresource,
        Some((main, sub)) => main == resource && sub == subresource,
    }
}

/// Whether one rule grants the piece. A wildcard is covered only by a wildcard.
fn grants(rule: &Rule, piece: Piece<'_>) -> bool {
    let has = |list: &[String], wanted: &str| any(list, |item| item == "*" || item == wanted);
    match piece {
        Piece::Url { verb, url } => {
            has(&rule.verbs, verb) && any(&rule.non_resource_urls, |owned| url_covers(owned, url))
        }
        Piece::Resource { verb, group, resource, name } => {
            let (main, sub) = resource.split_once('/').unwrap_or((resource, ""));
            has(&rule.verbs, verb)
                && has(&rule.api_groups, group)
                && any(&rule.resources, |owned| owned == resource || resource_matches(owned, main, sub))
                && (rule.resource_names.is_empty()
                    || name.is_some_and(|name| any(&rule.resource_names, |owned| owned == name)))
        }
    }
}

fn url_covers(owned: &str, wanted: &str) -> bool {
    owned == wanted || owned.strip_suffix('*').is_some_and(|prefix| wanted.starts_with(prefix))
}

/// The rules of `wanted` that `owned` does not cover completely: what an author would gain by writing them.
pub(crate) fn missing<'a>(owned: &[Rule], wanted: &'a [Rule]) -> Vec<&'a Rule> {
    let covered = |rule: &Rule| rule.pieces().all(|piece| owned.iter().any(|rule| grants(rule, piece)));
    wanted.iter().filter(|rule| !covered(rule)).collect()
}

/// A rule as Kubernetes prints it in escalation errors: `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`.
pub(crate) fn describe(rule: &Rule) -> String {
    let parts: [(&str, &[String]); 5] = [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("ResourceNames", &rule.resource_names),
        ("Verbs", &rule.verbs),
    ];
    let shown: Vec<String> = parts
        .iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(name, list)| {
            let quoted: Vec<String> = list.iter().map(|item| format!("{item:?}")).collect();
            format!("{name}:[{}]", quoted.join(" "))
        })
        .collect();
    format!("{{{}}}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &str, groups: &str, resources: &str, names: &str) -> Rule {
        let list = |text: &str| match text {
            "-" => Vec::new(),
            text => text.split(',').map(str::to_owned).collect(),
        };
        Rule {
            verbs: list(verbs),
            api_groups: list(groups),
            resources: list(resources),
            resource_names: list(names),
            non_resource_urls: Vec::new(),
        }
    }

    fn urls(verbs: &str, urls: &str) -> Rule {
        let list = |text: &str| text.split(',').map(str::to_owned).collect();
        Rule { verbs: list(verbs), non_resource_urls: list(urls), ..Rule::default() }
    }

    #[test]
    fn a_rule_allows() {
        let pods = |verb, sub, name| Ask {
            verb,
            is_resource: true,
            resource: "pods",
            subresource: sub,
            name,
            namespace: "a",
            ..Ask::default()
        };
        let check = |rule: Rule, ask: Ask<'_>, expect: bool| {
            assert_eq!(rule.allows(&ask), expect, "{} {ask:?}", describe(&rule));
        };
        check(rule("get", "", "pods", "-"), pods("get", "", "x"), true);
        check(rule("get", "", "pods", "-"), pods("list", "", ""), false);
        check(rule("*", "", "pods", "-"), pods("list", "", ""), true);
        check(rule("get", "apps", "pods", "-"), pods("get", "", "x"), false);
        check(rule("get", "*", "*", "-"), pods("get", "log", "x"), true);
        check(rule("get", "", "pods", "-"), pods("get", "log", "x"), false);
        check(rule("get", "", "pods/log", "-"), pods("get", "log", "x"), true);
        check(rule("get", "", "*/log", "-"), pods("get", "log", "x"), true);
        check(rule("get", "", "*/log", "-"), pods("get", "", "x"), false);
        check(rule("get", "", "pods/*", "-"), pods("get", "log", "x"), false);
        check(rule("get", "", "PODS", "-"), pods("get", "", "x"), false);
        check(rule("get", "", "pods", "x,y"), pods("get", "", "x"), true);
        check(rule("get", "", "pods", "x,y"), pods("get", "", "z"), false);
        check(rule("list", "", "pods", "x"), pods("list", "", ""), false);
        check(rule("get", "-", "pods", "-"), pods("get", "", "x"), false);
        check(urls("get", "*"), pods("get", "", "x"), false);
    }

    #[test]
    fn a_rule_allows_paths() {
        let check = |rule: Rule, path: &str, expect: bool| {
            let ask = Ask { verb: "get", path, ..Ask::default() };
            assert_eq!(rule.allows(&ask), expect, "{} {path}", describe(&rule));
        };
        check(urls("get", "/healthz"), "/healthz", true);
        check(urls("get", "/healthz"), "/healthz/ping", false);
        check(urls("get", "/healthz/*"), "/healthz/ping", true);
        check(urls("get", "/healthz/*"), "/healthz", false);
        check(urls("get", "*"), "/metrics", true);
        check(urls("post", "*"), "/metrics", false);
        check(rule("*", "*", "*", "-"), "/metrics", false);
    }

    #[test]
    fn coverage() {
        let check = |owned: &[Rule], wanted: Rule, expect: bool| {
            let wanted = [wanted];
            assert_eq!(missing(owned, &wanted).is_empty(), expect, "{owned:?} {wanted:?}");
        };
        let view = rule("get,list", "", "pods,services", "-");
        check(std::slice::from_ref(&view), rule("get", "", "pods", "-"), true);
        check(std::slice::from_ref(&view), rule("get", "", "pods", "x"), true);
        check(std::slice::from_ref(&view), rule("*", "", "pods", "-"), false);
        check(std::slice::from_ref(&view), rule("get", "", "secrets", "-"), false);
        check(std::slice::from_ref(&view), rule("get", "", "pods/log", "-"), false);
        check(&[rule("*", "*", "*", "-")], rule("get", "", "pods/log", "-"), true);
        check(&[rule("*", "*", "*", "-")], rule("*", "*", "*", "-"), true);
        check(&[rule("get", "", "*/scale", "-")], rule("get", "", "pods/scale", "-"), true);
        check(&[rule("get", "", "*/scale", "-")], rule("get", "", "*/scale", "-"), true);
        check(&[rule("get", "", "pods", "x")], rule("get", "", "pods", "-"), false);
        check(&[rule("get", "", "pods", "x")], rule("get", "", "pods", "x"), true);
        check(&[rule("get", "", "a", "-"), rule("list", "", "a", "-")], rule("get,list", "", "a", "-"), true);
        check(&[urls("get", "/api/*")], urls("get", "/api/v1"), true);
        check(&[urls("get", "/api/v1")], urls("get", "/api/*"), false);
        check(&[rule("*", "*", "*", "-")], urls("get", "/metrics"), false);
    }

    #[test]
    fn rules_read_from_json() {
        let rule: Rule = serde_json::from_value(serde_json::json!({
            "verbs": ["get"], "apiGroups": null, "nonResourceURLs": ["/x"]
        }))
        .unwrap();
        assert_eq!(rule, urls("get", "/x"));
    }
}

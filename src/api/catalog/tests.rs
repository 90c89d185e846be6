//! The catalog against the list of resources of a real 1.35 API server.

use super::*;

const FACTS: &str = include_str!("../testdata/api-resources.tsv");

/// A row in the notation of the facts.
fn line(r: &Resource) -> String {
    let verbs: Vec<_> = r.verbs.names().collect();
    let sub = |s: &Subresource| {
        let verbs = match s.connect.as_slice() {
            [] => s.verbs.names().map(str::to_owned).collect::<Vec<_>>(),
            methods => methods.iter().map(|m| format!("connect({m})")).collect(),
        };
        format!("{}[{}]{{{} {}}}", s.name, verbs.join(","), s.gvk.api_version(), s.gvk.kind)
    };
    let subs: Vec<_> = r.subresources.iter().map(sub).collect();
    let Resource { group, version, plural, kind, namespaced, .. } = r;
    let (verbs, subs) = (verbs.join(","), subs.join(";"));
    format!("{group}\t{version}\t{plural}\t{kind}\t{namespaced}\t{verbs}\t{subs}")
}

#[test]
fn catalog_is_that_of_a_real_api_server() {
    let mut ours: Vec<_> = Catalog::builtin().iter().map(|r| line(r)).collect();
    let mut theirs: Vec<_> = FACTS.lines().skip(1).map(str::to_owned).collect();
    ours.sort();
    theirs.sort();
    assert!(theirs.len() > 80);
    assert_eq!(ours, theirs);
}

#[test]
fn ga_is_on_and_the_rest_is_off() {
    for r in Catalog::builtin().iter() {
        let ga = !r.version.contains("alpha") && !r.version.contains("beta");
        assert_eq!(r.default_on, ga, "{}", r.gvk());
        assert_eq!(r.singular, r.kind.to_lowercase());
    }
}

#[test]
fn finding() {
    let catalog = Catalog::builtin();
    let nodes = catalog.find("", "v1", "nodes").unwrap();
    assert_eq!((nodes.kind.as_str(), nodes.prefix.as_str()), ("Node", "minions"));
    let gvk = GroupVersionKind::from_api_version("events.k8s.io/v1", "Event");
    assert_eq!(catalog.by_kind(&gvk).unwrap().storage, GroupVersionKind::new("", "v1", "Event"));
    assert_eq!(catalog.preferred("autoscaling", "horizontalpodautoscalers").unwrap().version, "v2");
    assert!(catalog.find("", "v1", "node").is_none());
    let custom = Resource { group: "x.io".into(), custom: true, ..Resource::clone(nodes) };
    let with = catalog.with([Arc::new(custom)]);
    assert!(with.find("x.io", "v1", "nodes").is_some());
    assert!(with.with([]).find("x.io", "v1", "nodes").is_none());
    assert_eq!(catalog.group_versions()[0], ("", "v1"));
}

#[test]
fn resources_that_share_a_prefix_share_their_storage_type() {
    let catalog = Catalog::builtin();
    for a in catalog.iter() {
        for b in catalog.iter().filter(|b| b.prefix == a.prefix) {
            assert_eq!(a.storage, b.storage, "{}", a.prefix);
        }
    }
}

#[test]
fn verbs() {
    assert!(Verbs::ALL.has("deletecollection") && !Verbs::SUB.has("list"));
    assert_eq!(Verbs::from_names(["get", "patch", "update", "x"]), Verbs::SUB);
}

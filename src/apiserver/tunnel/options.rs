//! The query of log, exec, attach and port-forward: which container, and what the kubelet is told. Pure.

use api::Object;
use api::catalog::GroupKind;
use api::field::{FieldError, Path};
use api::status::Status;
use serde_json::Value;

use crate::request::Query;

/// WebSocket protocols that containerd's streaming server speaks.
const PROTOCOLS: [&str; 5] = [
    "channel.k8s.io",
    "base64.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "portforward.k8s.io",
];

/// The container meant: the one named, or the only one.
pub(super) fn container(pod: &Object, named: Option<&str>) -> api::Result<String> {
    let names = |path: &str| -> Vec<String> {
        let containers = pod.list_at(path).iter();
        containers.filter_map(|c| c.get("name").and_then(Value::as_str)).map(str::to_owned).collect()
    };
    let (plain, init, ephemeral) =
        (names("spec.containers"), names("spec.initContainers"), names("spec.ephemeralContainers"));
    if let Some(name) = named {
        let known = [&plain, &init, &ephemeral].iter().any(|list| list.iter().any(|own| own == name));
        let why = || Status::bad_request(format!("container {name} is not valid for pod {}", pod.name()));
        return if known { Ok(name.to_owned()) } else { Err(why()) };
    }
    if let [only] = plain.as_slice() {
        return Ok(only.clone());
    }
    let mut text = format!("a container name must be specified for pod {}", pod.name());
    for (list, words) in [
        (&plain, ", choose one of:"),
        (&init, " or one of the init containers:"),
        (&ephemeral, " or one of the ephemeral containers:"),
    ] {
        if !list.is_empty() {
            text = format!("{text}{words} [{}]", list.join(" "));
        }
    }
    Err(Status::bad_request(text))
}

/// The kubelet's query for logs.
pub(super) fn log(query: &Query) -> api::Result<String> {
    let mut errors = Vec::new();
    let mut pairs = Vec::new();
    for flag in ["follow", "previous", "timestamps"] {
        if query.flag(flag) {
            pairs.push((flag, "true".to_owned()));
        }
    }
    for (name, least) in [("tailLines", 0), ("limitBytes", 1), ("sinceSeconds", 1)] {
        let Some(text) = query.get(name) else { continue };
        let Ok(number) = text.parse::<i64>() else {
            return Err(Status::bad_request(format!(
                "{name}: strconv.ParseInt: parsing {text:?}: invalid syntax"
            )));
        };
        if number < least {
            let why =
                if least == 0 { "must be greater than or equal to 0" } else { "must be greater than 0" };
            errors.push(FieldError::invalid(&Path::new(name), number, why));
        }
        pairs.push((name, number.to_string()));
    }
    if let Some(time) = query.get("sinceTime") {
        if query.get("sinceSeconds").is_some() {
            let why = "at most one of `sinceTime` or `sinceSeconds` may be specified";
            errors.push(FieldError::forbidden(&Path::root(), why));
        }
        pairs.push(("sinceTime", time.to_owned()));
    }
    if let Some(stream) = query.get("stream") {
        if !["All", "Stdout", "Stderr"].contains(&stream) {
            errors.push(FieldError::not_supported(
                &Path::new("stream"),
                stream,
                &["All", "Stderr", "Stdout"],
            ));
        }
        pairs.push(("stream", stream.to_owned()));
    }
    match errors.is_empty() {
        true => Ok(encode(&pairs)),
        false => Err(Status::invalid(
            &GroupKind { group: String::new(), kind: "PodLogOptions".into() },
            "",
            errors,
        )),
    }
}

/// The kubelet's query for exec and attach.
pub(super) fn streams(query: &Query, exec: bool) -> api::Result<String> {
    let given = ["stdin", "stdout", "stderr"].iter().any(|name| query.get(name).is_some());
    let on = |name: &str| if given { query.flag(name) } else { name != "stdin" };
    let mut pairs = Vec::new();
    for (name, word) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error")] {
        if on(name) {
            pairs.push((word, "1".to_owned()));
        }
    }
    if pairs.is_empty() {
        return Err(Status::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    if query.flag("tty") {
        pairs.push(("tty", "1".to_owned()));
    }
    if exec {
        let command = query.all("command");
        if command.is_empty() {
            return Err(Status::bad_request("you must specify at least one command for the container"));
        }
        pairs.extend(command.iter().map(|word| ("command", word.clone())));
    }
    Ok(encode(&pairs))
}

/// The kubelet's query for port-forward: ports, which only WebSocket clients name here.
pub(super) fn ports(query: &Query) -> api::Result<String> {
    let mut pairs = Vec::new();
    for text in query.all("ports").iter().chain(query.all("port")).flat_map(|value| value.split(',')) {
        match text.parse::<u16>() {
            Ok(port) if port > 0 => pairs.push(("port", port.to_string())),
            _ => return Err(Status::bad_request(format!("invalid port {text:?}"))),
        }
    }
    Ok(encode(&pairs))
}

/// Of the WebSocket protocols a client offers, those that can be carried; `None` when there are none: the client
/// falls back to SPDY then. A client that offers nothing speaks the oldest one.
pub(super) fn protocols(offered: &[&str]) -> Option<String> {
    let offered: Vec<&str> = offered.iter().flat_map(|value| value.split(',')).map(str::trim).collect();
    let kept: Vec<&str> = offered.iter().copied().filter(|offer| PROTOCOLS.contains(offer)).collect();
    (offered.is_empty() || !kept.is_empty()).then(|| kept.join(", "))
}

fn encode(pairs: &[(&str, String)]) -> String {
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={}", escape(value))).collect();
    pairs.join("&")
}

/// Percent-encodes a query value or a path segment.
pub(super) fn escape(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { (b as char).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn text(result: &api::Result<String>) -> &str {
        match result {
            Ok(text) => text,
            Err(status) => status.message(),
        }
    }

    #[test]
    fn containers() {
        let check = |spec: Value, named: Option<&str>, expect: &str| {
            let pod = Object::try_from(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
            assert_eq!(text(&container(&pod, named)), expect);
        };
        let one = json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]});
        let two = json!({"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]});
        check(one.clone(), None, "a");
        check(one.clone(), Some("i"), "i");
        check(one, Some("x"), "container x is not valid for pod p");
        check(
            two,
            None,
            "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]",
        );
    }

    #[test]
    fn queries() {
        let check = |found: api::Result<String>, expect: &str| assert_eq!(text(&found), expect);
        let q = Query::parse;
        check(
            log(&q("follow=true&tailLines=10&timestamps=true&x=y")),
            "follow=true&timestamps=true&tailLines=10",
        );
        check(log(&q("sinceTime=2026-01-01T00:00:00Z")), "sinceTime=2026-01-01T00%3A00%3A00Z");
        assert!(
            log(&q("tailLines=-1")).unwrap_err().message().contains("must be greater than or equal to 0")
        );
        check(
            streams(&q("command=sh&command=-c&command=a b&stdin=true&tty=true&stdout=1"), true),
            "input=1&output=1&tty=1&command=sh&command=-c&command=a%20b",
        );
        check(streams(&q("command=ls"), true), "output=1&error=1&command=ls");
        check(streams(&q("stdout=true"), true), "you must specify at least one command for the container");
        check(streams(&q("stdin=false"), false), "you must specify at least 1 of stdin, stdout, stderr");
        check(ports(&q("ports=80,81")), "port=80&port=81");
        check(ports(&q("ports=0")), "invalid port \"0\"");
    }

    #[test]
    fn websocket_protocols() {
        let check =
            |offered: &[&str], expect: Option<&str>| assert_eq!(protocols(offered).as_deref(), expect);
        check(&["v5.channel.k8s.io"], None);
        check(&["v5.channel.k8s.io, v4.channel.k8s.io"], Some("v4.channel.k8s.io"));
        check(&["SPDY/3.1+portforward.k8s.io"], None);
        check(&["v4.channel.k8s.io", "channel.k8s.io"], Some("v4.channel.k8s.io, channel.k8s.io"));
        check(&[], Some(""));
    }
}

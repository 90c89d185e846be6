//! What operators do: ask why a pod does not run, read events, empty a node and take it back.

use crate::demo::Demo;

/// More than any node has.
const GREEDY: &str = r#"{"spec":{"containers":[{"name":"greedy","image":"demo.local/web:1","resources":{"requests":{"cpu":"1000"}}}]}}"#;

pub(crate) fn why_it_does_not_fit(demo: &Demo) {
    demo.kubectl(&["run", "greedy", "--image=demo.local/web:1", "--overrides", GREEDY]);
    let why = "0/2 nodes are available: 2 Insufficient cpu.";
    let (text, _) = demo.wait("the reason in describe", || {
        let text = demo.sandbox.kubectl(&["describe", "pod", "greedy"])?;
        Ok(if text.contains(why) { Ok(text) } else { Err(text) })
    });
    let line = text.lines().find(|l| l.contains(why)).unwrap_or_default();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[..2], ["Warning", "FailedScheduling"], "{line}");
    assert!(words.contains(&"default-scheduler"), "{line}");
    assert!(text.lines().any(|l| l.split_whitespace().eq(["Status:", "Pending"])), "{text}");
    let words = ["get", "events", "--field-selector", "involvedObject.name=greedy,reason=FailedScheduling"];
    let events = demo.kubectl(&words);
    assert!(events.contains("pod/greedy") && events.contains(why), "{events}");
    demo.kubectl(&["delete", "pod", "greedy", "--wait=true"]);
}

/// A pod's life, as its events tell it.
pub(crate) fn events(demo: &Demo) {
    let pod = demo.web().remove(0);
    let selector = format!("involvedObject.name={}", pod.name);
    let words = ["get", "events", "--field-selector", &selector, "-o", "custom-columns=R:.reason"];
    demo.wait("all events of a pod's start", || {
        let text = demo.sandbox.kubectl(&words)?;
        let missing: Vec<_> =
            ["Scheduled", "Created", "Started"].into_iter().filter(|r| !text.contains(r)).collect();
        Ok(if missing.is_empty() { Ok(()) } else { Err(format!("no {missing:?} in {text}")) })
    });
    let sorted = demo.kubectl(&["get", "events", "--sort-by=.metadata.creationTimestamp"]);
    assert!(sorted.starts_with("LAST SEEN") && sorted.contains("deployment/web"), "{sorted}");
}

pub(crate) fn drain(demo: &Demo) {
    demo.kubectl(&["scale", "deployment", "web", "--replicas=4"]);
    demo.wait_web(4, "");
    assert!(on(demo, "w2") > 0, "the scheduler spreads the pods over both workers");
    let words = ["drain", "w2", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=80s"];
    let text = demo.kubectl(&words);
    assert!(text.contains("node/w2 drained"), "{text}");
    let left = ["get", "pods", "-A", "-o", "name", "--field-selector", "spec.nodeName=w2"];
    assert_eq!(demo.kubectl(&left), "", "an empty node");
    demo.wait_web(4, "");
    assert_eq!(on(demo, "w1"), 4, "all pods moved");
    let node = demo.kubectl(&["get", "node", "w2"]);
    assert!(node.contains("Ready,SchedulingDisabled"), "{node}");
    demo.kubectl(&["uncordon", "w2"]);
    demo.kubectl(&["scale", "deployment", "web", "--replicas=6"]);
    demo.wait_web(6, "");
    assert!(on(demo, "w2") > 0, "the node takes pods again");
    demo.kubectl(&["scale", "deployment", "web", "--replicas=3"]);
    demo.wait_web(3, "");
}

/// How many pods of the app a node has.
fn on(demo: &Demo, node: &str) -> usize {
    demo.web().iter().filter(|p| p.node == node).count()
}

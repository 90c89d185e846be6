//! Pods, processes, kubelets and workers that go, and come back.

use std::time::Instant;

use chaos::api::PodView;

use crate::demo::Demo;

pub(crate) fn deleted_pod(demo: &Demo) {
    let old = demo.web().remove(0).name;
    demo.kubectl(&["delete", "pod", &old, "--wait=false"]);
    demo.wait_web(3, "");
    assert!(demo.web().iter().all(|p| p.name != old), "{old} is gone for good");
}

pub(crate) fn killed_process(demo: &Demo) {
    let pod = demo.web().remove(0);
    demo.kubectl(&["exec", &pod.name, "--", "sh", "-c", "kill -9 $(pidof httpd)"]);
    let (_, took) = demo.wait("the restart", || {
        let pods = demo.cluster.pods("default", "app=web")?;
        let now = pods.into_iter().find(|p| p.name == pod.name).unwrap_or_default();
        let back = now.ready && now.restarts == pod.restarts + 1 && now.containers != pod.containers;
        Ok(if back { Ok(()) } else { Err(format!("{now:?}")) })
    });
    println!("      restarted and ready after {:.1} s", took.as_secs_f64());
}

pub(crate) fn killed_kubelet(demo: &Demo) {
    let before = sorted(demo.web());
    let node = before[0].node.clone();
    demo.sandbox.kill(&node, "kubelet").expect("the kubelet runs");
    let url = format!("http://{}/", demo.address());
    assert!(demo.get("m1", &url).is_some(), "containers live on without their kubelet");
    demo.sandbox.start(&node, "kubelet").expect("the kubelet starts");
    // It works again when it runs something new; only then is it fair to look at the old ones.
    let overrides = format!(r#"{{"spec":{{"nodeName":"{node}"}}}}"#);
    let words = ["run", "after", "--image=demo.local/web:1", "--labels=app=after", "--overrides", &overrides];
    demo.kubectl(&words);
    demo.wait("a new pod on the node", || {
        let pods = demo.cluster.pods("default", "app=after")?;
        Ok(if pods.iter().any(|p| p.ready) { Ok(()) } else { Err(format!("{pods:?}")) })
    });
    assert_eq!(sorted(demo.web()), before, "the same containers, no restart, still ready");
    demo.kubectl(&["delete", "pod", "after", "--wait=false"]);
}

fn sorted(mut pods: Vec<PodView>) -> Vec<PodView> {
    pods.sort_by(|a, b| a.name.cmp(&b.name));
    pods
}

pub(crate) fn worker_poweroff(demo: &Demo) {
    demo.kubectl(&["scale", "deployment", "web", "--replicas=4"]);
    demo.wait_web(4, "");
    let lost: Vec<String> = on(demo, "w2");
    assert!(!lost.is_empty(), "the scheduler spreads the pods over both workers");
    let start = Instant::now();
    demo.sandbox.poweroff("w2").expect("w2 can be switched off");
    demo.wait_web(4, "w2");
    demo.seconds("replacements Ready after a worker's power-off", start.elapsed(), 40.0);
    let old: Vec<PodView> = demo.web().into_iter().filter(|p| p.node == "w2").collect();
    assert_eq!(names(&old), lost, "the old pods stay, because nobody knows what became of them");
    assert!(old.iter().all(|p| p.terminating), "the old pods are Terminating: {old:?}");
    demo.wait_nodes(&["w1"]);
    demo.sandbox.poweron("w2").expect("w2 can be switched on");
    let back = demo.wait_nodes(&["w1", "w2"]);
    println!("      Ready again {:.1} s after power-on", back.as_secs_f64());
    demo.wait_web(4, "");
    demo.kubectl(&["scale", "deployment", "web", "--replicas=3"]);
    demo.wait_web(3, "");
}

fn on(demo: &Demo, node: &str) -> Vec<String> {
    names(&demo.web().into_iter().filter(|p| p.node == node).collect::<Vec<_>>())
}

fn names(pods: &[PodView]) -> Vec<String> {
    let mut names: Vec<String> = pods.iter().map(|p| p.name.clone()).collect();
    names.sort();
    names
}

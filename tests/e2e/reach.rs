//! The demo app by service address, by name and by NodePort, from nodes, masters, pods and a host beside the cluster.

use crate::demo::Demo;

const NODE_PORT: u16 = 30080;

pub(crate) fn from_everywhere(demo: &Demo) {
    let address = demo.address();
    for host in ["w1", "w2", "m1", "m2", "m3"] {
        answers(demo, host, &format!("http://{address}/"));
    }
    for node in ["10.90.0.21", "10.90.0.22", "10.90.0.11"] {
        answers(demo, "lb", &format!("http://{node}:{NODE_PORT}/"));
        answers(demo, "w1", &format!("http://{node}:{NODE_PORT}/"));
    }
    for pod in demo.web() {
        for host in [address.as_str(), "web", "web.default", "web.default.svc.cluster.local"] {
            let url = format!("http://{host}/");
            let text =
                demo.kubectl(&["exec", &pod.name, "--", "timeout", "5", "wget", "-q", "-O", "-", &url]);
            assert!(text.starts_with("web:1 "), "{} asked {url}: {text}", pod.name);
        }
        let own = demo.kubectl(&["exec", &pod.name, "--", "hostname"]);
        assert_eq!(own, pod.name, "a pod's host name is its name");
    }
}

fn answers(demo: &Demo, host: &str, url: &str) {
    let (text, _) = demo.wait(&format!("an answer of {url} on {host}"), || {
        Ok(demo.get(host, url).ok_or_else(|| "no answer".to_string()))
    });
    assert!(text.starts_with("web:1 web-"), "{host} asked {url}: {text}");
}

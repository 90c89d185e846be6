//! Real traffic through real rules, in network namespaces of the test's own that lead nowhere else.
//!
//! Needs root, `nft` and `ip`; without them it fails, it does not skip.
//!
//! ```text
//! outside 10.90.0.99 ─┐
//! node    10.90.0.21 ─┴ (veth)   node ─ bridge cni0 10.244.1.1 ─ a 10.244.1.2, b 10.244.1.3
//! ```

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use proxy::{Applied, Kernel, NodeView, Options, Ruleset, Udp, clean, plan, sync_routes};
use serde_json::{Value, json};

const WAIT: Duration = Duration::from_secs(2);
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A node with two pods, and a host outside; all gone when dropped.
struct World {
    prefix: String,
}

impl World {
    fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root: it makes network namespaces");
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let world = Self { prefix: format!("px{}-{number}", std::process::id()) };
        for name in ["node", "out", "a", "b"] {
            world.ip(&format!("netns add {}", world.name(name)));
            world.ip(&format!("-n {} link set lo up", world.name(name)));
        }
        world.link("node", "eth0", "10.90.0.21/24", "out", "eth0", Some("10.90.0.99/24"));
        let node = world.name("node");
        world.ip(&format!("-n {node} link add cni0 type bridge"));
        world.ip(&format!("-n {node} addr add 10.244.1.1/24 dev cni0"));
        world.ip(&format!("-n {node} link set cni0 up"));
        for (pod, address) in [("a", "10.244.1.2"), ("b", "10.244.1.3")] {
            world.link(pod, "eth0", &format!("{address}/24"), "node", &format!("veth{pod}"), None);
            world.ip(&format!("-n {node} link set veth{pod} master cni0"));
            world.ip(&format!("-n {node} link set veth{pod} type bridge_slave hairpin on"));
            world.ip(&format!("-n {} route add default via 10.244.1.1", world.name(pod)));
        }
        world.ip(&format!("-n {node} route add 10.96.0.0/12 dev eth0"));
        world.ip(&format!("-n {} route add 10.96.0.0/12 via 10.90.0.21", world.name("out")));
        world.inside("node", || {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
            // Packets from outside to a service leave by the interface they came from; without this, the node
            // would tell the sender to go there directly.
            std::fs::write("/proc/sys/net/ipv4/conf/all/send_redirects", "0").unwrap();
            std::fs::write("/proc/sys/net/ipv4/conf/eth0/send_redirects", "0").unwrap();
            let _ = std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "1");
        });
        world
    }

    fn name(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    fn ip(&self, arguments: &str) {
        let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip (iproute2) is needed");
        assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn link(
        &self,
        host: &str,
        dev: &str,
        address: &str,
        peer: &str,
        peer_dev: &str,
        peer_address: Option<&str>,
    ) {
        let (host, peer) = (self.name(host), self.name(peer));
        self.ip(&format!("link add {dev} netns {host} type veth peer name {peer_dev} netns {peer}"));
        self.ip(&format!("-n {host} addr add {address} dev {dev}"));
        if let Some(address) = peer_address {
            self.ip(&format!("-n {peer} addr add {address} dev {peer_dev}"));
        }
        self.ip(&format!("-n {host} link set {dev} up"));
        self.ip(&format!("-n {peer} link set {peer_dev} up"));
    }

    /// Runs `work` in a thread that lives in the host's namespace.
    fn inside<T: Send>(&self, host: &str, work: impl FnOnce() -> T + Send) -> T {
        let path = format!("/run/netns/{}", self.name(host));
        let enter = move || {
            let file = std::fs::File::open(path).expect("the namespace exists");
            setns(file, CloneFlags::CLONE_NEWNET).expect("root may enter a namespace");
        };
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                enter();
                work()
            });
            thread.join().expect("the work inside did not panic")
        })
    }

    /// Applies rules on the node.
    fn apply(&self, kernel: &mut Kernel, rules: Ruleset) -> Applied {
        self.inside("node", || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(kernel.apply(rules)).expect("nft takes the rules")
        })
    }

    /// A TCP server on a pod that answers `NAME CLIENT-ADDRESS`.
    fn serve_tcp(&self, host: &str, port: u16) {
        let name = host.to_owned();
        let listener = self.inside(host, || TcpListener::bind(("0.0.0.0", port)).unwrap());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let client = stream.peer_addr().map(|a| a.ip().to_string()).unwrap_or_default();
                let _ = write!(stream, "{name} {client}");
            }
        });
    }

    fn serve_udp(&self, host: &str, port: u16) {
        let name = host.to_owned();
        let socket = self.inside(host, || UdpSocket::bind(("0.0.0.0", port)).unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(name.as_bytes(), from);
            }
        });
    }

    /// What a TCP client on `host` is answered.
    fn ask(&self, host: &str, to: &str) -> std::io::Result<String> {
        let to: SocketAddr = to.parse().unwrap();
        self.inside(host, || {
            let mut stream = TcpStream::connect_timeout(&to, WAIT)?;
            stream.set_read_timeout(Some(WAIT))?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        })
    }

    /// Which pods answer over `tries` connections.
    fn answering(&self, host: &str, to: &str, tries: usize) -> BTreeSet<String> {
        let name = |text: String| text.split(' ').next().unwrap_or_default().to_owned();
        (0..tries).map(|_| name(self.ask(host, to).expect("a connection"))).collect()
    }

    #[track_caller]
    fn refused(&self, host: &str, to: &str) {
        let error = self.ask(host, to).expect_err("nobody answers");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{error}");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for name in ["a", "b", "out", "node"] {
            let _ = Command::new("ip").args(["netns", "del", &self.name(name)]).status();
        }
    }
}

fn rules(spec: Value, endpoints: &[(&str, &str)], options: &Options) -> Ruleset {
    let service = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec});
    let list: Vec<Value> = endpoints
        .iter()
        .map(|(ip, node)| json!({"addresses": [ip], "nodeName": node, "hints": {"forNodes": [{"name": node}]}}))
        .collect();
    let protocol = service["spec"]["ports"][0]["protocol"].clone();
    let slice = json!({"metadata": {"name": "web-1", "namespace": "default",
        "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4", "endpoints": list,
        "ports": [{"port": 8080, "protocol": protocol}]});
    let node = NodeView { name: "node".to_owned(), zone: None };
    let service = Arc::new(serde_json::from_value(service).unwrap());
    let slice = Arc::new(serde_json::from_value(slice).unwrap());
    plan(&[service], &[slice], &node, options)
}

fn options() -> Options {
    Options { cluster_cidr: Some("10.244.0.0/16".parse().unwrap()), ..Options::default() }
}

fn web(extra: &Value) -> Value {
    let mut spec = json!({"clusterIP": "10.96.0.5", "type": "NodePort",
        "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}]});
    for (key, value) in extra.as_object().unwrap() {
        spec[key] = value.clone();
    }
    spec
}

const A: (&str, &str) = ("10.244.1.2", "node");
const B: (&str, &str) = ("10.244.1.3", "other");

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

#[test]
fn connections_reach_endpoints_and_only_those() {
    let world = World::new();
    world.serve_tcp("a", 8080);
    world.serve_tcp("b", 8080);
    let mut kernel = Kernel::default();
    assert_eq!(world.apply(&mut kernel, rules(web(&json!({})), &[A, B], &options())), Applied::Everything);
    for host in ["node", "out", "a"] {
        assert_eq!(world.answering(host, "10.96.0.5:80", 24), set(&["a", "b"]), "from {host}");
    }
    assert_eq!(world.answering("out", "10.90.0.21:30080", 24), set(&["a", "b"]));
    assert_eq!(world.answering("a", "10.90.0.21:30080", 24), set(&["a", "b"]));
    world.refused("node", "127.0.0.1:30080");
    world.refused("a", "10.96.0.5:81");
    world.refused("out", "10.96.0.5:81");
    world.refused("node", "10.96.0.5:81");
    // Pods see each other's addresses; whoever comes from outside comes as the node.
    let seen: BTreeSet<String> = (0..24).map(|_| world.ask("a", "10.96.0.5:80").unwrap()).collect();
    assert!(seen.contains("b 10.244.1.2"), "{seen:?}");
    assert!(world.ask("out", "10.96.0.5:80").unwrap().ends_with("10.244.1.1"));

    assert_eq!(world.apply(&mut kernel, rules(web(&json!({})), &[B], &options())), Applied::Difference);
    assert_eq!(world.answering("out", "10.96.0.5:80", 24), set(&["b"]));
    assert_eq!(world.answering("b", "10.96.0.5:80", 4), set(&["b"]), "a pod reaches itself");
    world.apply(&mut kernel, rules(web(&json!({})), &[], &options()));
    for host in ["node", "out", "a"] {
        world.refused(host, "10.96.0.5:80");
    }
    world.refused("out", "10.90.0.21:30080");
    assert_eq!(world.apply(&mut kernel, rules(web(&json!({})), &[A], &options())), Applied::Difference);
    assert_eq!(world.answering("node", "10.96.0.5:80", 4), set(&["a"]));
    assert_eq!(world.apply(&mut kernel, rules(web(&json!({})), &[A], &options())), Applied::Nothing);
}

#[test]
fn policies_and_preferences() {
    let world = World::new();
    world.serve_tcp("a", 8080);
    world.serve_tcp("b", 8080);
    let mut kernel = Kernel::default();
    world.apply(
        &mut kernel,
        rules(web(&json!({"trafficDistribution": "PreferSameNode"})), &[A, B], &options()),
    );
    assert_eq!(world.answering("b", "10.96.0.5:80", 16), set(&["a"]));
    let flag = Options { prefer_same_node: true, ..options() };
    world.apply(&mut kernel, rules(web(&json!({})), &[A, B], &flag));
    assert_eq!(world.answering("b", "10.96.0.5:80", 16), set(&["a"]));
    world.apply(&mut kernel, rules(web(&json!({})), &[B], &flag));
    assert_eq!(world.answering("a", "10.96.0.5:80", 4), set(&["b"]));
    world.apply(&mut kernel, rules(web(&json!({"internalTrafficPolicy": "Local"})), &[A, B], &options()));
    assert_eq!(world.answering("b", "10.96.0.5:80", 16), set(&["a"]));

    let local = web(&json!({"externalTrafficPolicy": "Local"}));
    world.apply(&mut kernel, rules(local, &[A, B], &options()));
    assert_eq!(world.ask("out", "10.90.0.21:30080").unwrap(), "a 10.90.0.99", "the client's address is kept");

    world.apply(&mut kernel, rules(web(&json!({"sessionAffinity": "ClientIP"})), &[A, B], &options()));
    assert_eq!(world.answering("out", "10.96.0.5:80", 24).len(), 1, "a client stays with its endpoint");
}

#[test]
fn stale_udp_connections_end() {
    let world = World::new();
    world.serve_udp("a", 8080);
    world.serve_udp("b", 8080);
    let spec = || json!({"clusterIP": "10.96.0.5", "ports": [{"port": 53, "protocol": "UDP"}]});
    let mut kernel = Kernel::default();
    let client = world.inside("out", || UdpSocket::bind("0.0.0.0:5353").unwrap());
    client.set_read_timeout(Some(WAIT)).unwrap();
    let ask = || {
        client.send_to(b"?", "10.96.0.5:53").unwrap();
        let mut buffer = [0; 64];
        client.recv(&mut buffer).map(|n| String::from_utf8_lossy(&buffer[..n]).into_owned())
    };
    let first = rules(spec(), &[A], &options());
    world.apply(&mut kernel, first);
    assert_eq!(ask().unwrap(), "a");
    let second = rules(spec(), &[B], &options());
    let udp: Udp = second.udp.clone();
    world.apply(&mut kernel, second);
    assert_eq!(ask().unwrap(), "a", "the kernel remembers the connection");
    let local: BTreeSet<Ipv4Addr> = ["10.90.0.21".parse().unwrap()].into();
    assert_eq!(world.inside("node", || clean(&udp, &local)).unwrap(), 1);
    assert_eq!(ask().unwrap(), "b");
    assert_eq!(world.inside("node", || clean(&udp, &local)).unwrap(), 0, "a live one is left alone");
}

#[test]
fn the_table_comes_back_when_somebody_removes_it() {
    let world = World::new();
    let mut kernel = Kernel::default();
    world.apply(&mut kernel, rules(web(&json!({})), &[A], &options()));
    let check = |kernel: &mut Kernel| {
        world.inside("node", || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(kernel.check())
        })
    };
    assert!(check(&mut kernel));
    world.inside("node", || Command::new("nft").args(["flush", "ruleset"]).status().unwrap());
    assert!(!check(&mut kernel));
    assert_eq!(world.apply(&mut kernel, rules(web(&json!({})), &[A], &options())), Applied::Everything);
    assert!(check(&mut kernel));
}

#[test]
fn routes_follow_the_nodes() {
    let world = World::new();
    world.ip(&format!("-n {} route del 10.96.0.0/12 dev eth0", world.name("node")));
    let node = |name: &str, cidr: &str, address: &str| {
        let node = json!({"metadata": {"name": name}, "spec": {"podCIDR": cidr},
            "status": {"addresses": [{"type": "InternalIP", "address": address}]}});
        Arc::new(serde_json::from_value(node).unwrap())
    };
    let nodes = [node("node", "10.244.1.0/24", "10.90.0.21"), node("other", "10.244.2.0/24", "10.90.0.99")];
    let sync = |count: usize| {
        world.inside("node", || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime
                .block_on(sync_routes(&nodes[..count], "node", Some("10.96.0.0/12".parse().unwrap())))
                .unwrap()
        })
    };
    let routes = || {
        let output = Command::new("ip").args(["-n", &world.name("node"), "route"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(sync(2), 2);
    assert!(routes().contains("10.244.2.0/24 via 10.90.0.99 dev eth0 proto 213"), "{}", routes());
    assert!(routes().contains("10.96.0.0/12 dev eth0 proto 213"), "{}", routes());
    assert_eq!(sync(2), 0, "{}", routes());
    assert_eq!(sync(1), 1);
    assert!(!routes().contains("10.244.2.0/24"), "{}", routes());
    assert!(routes().contains("10.244.1.0/24 dev cni0"), "others' routes are left alone: {}", routes());
}

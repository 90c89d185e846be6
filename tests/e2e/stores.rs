//! The store's members: who leads, whether all three answer, whether all three hold the same.

use crate::demo::Demo;

/// The master whose store member leads.
pub(crate) fn leader(demo: &Demo) -> String {
    demo.wait("a store leader", || Ok(demo.sandbox.store_leader().ok_or("nobody says it leads".into()))).0
}

/// All masters whose store member says that it leads; during a partition an old leader may be among them.
pub(crate) fn leaders(demo: &Demo) -> Vec<String> {
    let leads = |text: String| text.lines().any(|l| l.trim() == "etcd_server_is_leader 1");
    let says = |m: &&str| demo.get(m, "http://127.0.0.1:2381/metrics").is_some_and(leads);
    ["m1", "m2", "m3"].iter().filter(|m| says(m)).map(ToString::to_string).collect()
}

/// Waits until all three members of the store answer.
pub(crate) fn healthy(demo: &Demo) {
    demo.wait("three healthy stores", || {
        let (success, text) = etcdctl(demo, &["endpoint", "health"]);
        Ok(if success { Ok(()) } else { Err(text) })
    });
}

/// Waits until the same is in all three: asked at one revision, because Leases are renewed all the time and the
/// members are asked one after the other.
pub(crate) fn agree(demo: &Demo) {
    healthy(demo);
    let ((hash, revision), _) = demo.wait("the same hash on all three members", || {
        let Some(revision) = revision(demo) else { return Ok(Err("no member says its revision".into())) };
        let (_, text) = etcdctl(demo, &["endpoint", "hashkv", "--rev", &revision]);
        let mut hashes: Vec<&str> = text.lines().filter_map(|l| l.split(", ").nth(1)).collect();
        let members = hashes.len();
        hashes.sort_unstable();
        hashes.dedup();
        // A member that is behind answers with an error.
        let same = members == 3 && hashes.len() == 1;
        Ok(if same { Ok((hashes[0].to_string(), revision)) } else { Err(text.clone()) })
    });
    println!("      hashkv is {hash} on all three at revision {revision}");
}

/// The store's revision.
fn revision(demo: &Demo) -> Option<String> {
    let (_, text) = etcdctl(demo, &["get", "/", "--limit", "1", "-w", "json"]);
    let digits = text.split("\"revision\":").nth(1)?.split(|c: char| !c.is_ascii_digit()).next()?;
    (!digits.is_empty()).then(|| digits.to_string())
}

fn etcdctl(demo: &Demo, words: &[&str]) -> (bool, String) {
    let folder = demo.sandbox.host("m1").expect("m1 exists").folder.join("pki/etcd");
    let file = |name: &str| folder.join(name).display().to_string();
    let mut command = demo.sandbox.command("m1", "etcdctl").expect("m1 exists");
    command.env("ETCDCTL_API", "3").args(["--cacert", &file("ca.crt")]);
    command.args(["--cert", &file("healthcheck-client.crt"), "--key", &file("healthcheck-client.key")]);
    command.arg("--endpoints=https://10.90.0.11:2379,https://10.90.0.12:2379,https://10.90.0.13:2379");
    let done = command.args(words).output().expect("etcdctl runs");
    let text = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    (done.status.success(), text)
}

//! `kubectl logs` as people use it: following, the run before this one, the end, the last seconds.

use crate::demo::Demo;
use crate::session::Session;

/// Says which run this is, and ends when it is told to.
const TALKER: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: talker, labels: {app: talker}}
spec:
  terminationGracePeriodSeconds: 5
  containers:
  - name: talker
    image: demo.local/web:1
    command: [sh, -c, "trap 'exit 3' TERM; echo run $(cat /proc/sys/kernel/random/uuid); while :; do sleep 1000 & wait; done"]
"#;

pub(crate) fn all(demo: &Demo) {
    demo.apply(TALKER);
    demo.kubectl(&["wait", "--for=condition=Ready", "pod/talker", "--timeout=60s"]);
    let first = follow(demo);
    previous(demo, &first);
    ends(demo);
    demo.kubectl(&["delete", "pod", "talker", "--wait=false"]);
}

/// Lets the container say something.
fn say(demo: &Demo, line: &str) {
    let command = format!("echo {line} > /proc/1/fd/1");
    demo.kubectl(&["exec", "talker", "--", "sh", "-c", &command]);
}

/// Lines appear while it follows, and it ends when the container does; the first run's whole log.
fn follow(demo: &Demo) -> String {
    let following = Session::piped(demo, &["logs", "-f", "talker"]);
    following.sees(demo, "run ");
    for line in ["one", "two"] {
        say(demo, line);
        following.sees(demo, &format!("{line}\n"));
    }
    demo.kubectl(&["exec", "talker", "--", "sh", "-c", "kill 1"]);
    let (status, text) = following.ends(demo);
    assert!(status.success(), "a follower ends well when the container has ended: {text}");
    assert!(
        text.ends_with("\none\ntwo\n") && text.lines().count() == 3,
        "each line once, in order: {text:?}"
    );
    text
}

fn previous(demo: &Demo, first: &str) {
    demo.wait("the second run's log", || {
        let now = demo.sandbox.kubectl(&["logs", "talker"])?;
        let another = now.starts_with("run ") && !first.starts_with(&now);
        Ok(if another { Ok(()) } else { Err(format!("it is {now:?}")) })
    });
    let before = demo.kubectl(&["logs", "--previous", "talker"]);
    assert_eq!(before, first.trim(), "--previous shows the run before this one");
}

/// `--tail` and `--since` choose from the end.
fn ends(demo: &Demo) {
    say(demo, "old");
    assert_eq!(demo.kubectl(&["logs", "--tail=1", "talker"]), "old");
    assert_eq!(demo.kubectl(&["logs", "--tail=0", "talker"]), "");
    let all = demo.kubectl(&["logs", "talker"]);
    assert_eq!(demo.kubectl(&["logs", "--since=1h", "talker"]), all);
    demo.wait("nothing said in the last five seconds", || {
        let text = demo.sandbox.kubectl(&["logs", "--since=5s", "talker"])?;
        Ok(if text.is_empty() { Ok(()) } else { Err(text) })
    });
    say(demo, "new");
    assert_eq!(demo.kubectl(&["logs", "--since=5s", "talker"]), "new");
    let stamped = demo.kubectl(&["logs", "--timestamps", "--tail=1", "talker"]);
    let time = stamped.split(' ').next().unwrap_or_default();
    assert!(
        stamped.ends_with("Z new") && time.len() > 20,
        "--timestamps gives each line its time: {stamped}"
    );
}

//! The power goes, again and again, while clients write: one member's, two members', all members'. What a client was
//! told is there afterwards.
//!
//! Keeps true: every member has a disk of its own, which loses what was not synced; who loses power and when comes
//! from a seed, which is printed, and `TRIREME_SEED` repeats it; clients record what they are told outside the store,
//! and everything that they were told is judged, as under other faults; after each loss of power the store must have
//! at least the revision that clients knew before it. A run in which too little was at risk fails, and so does the
//! control, the same store on disks that say that they have synced and have not, if it loses nothing.
//! `TRIREME_CYCLES=N` takes the power N times. A failed round leaves its history and logs in `target/power`.

#![allow(clippy::unwrap_used, reason = "clippy knows test functions, but not their helpers")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chaos::faults::disk::{Disks, Liar, shortened};
use chaos::history::Happening;
use chaos::invariants::{Rule, Violation, check, identical};
use chaos::isolated;
use chaos::members::{Kind, Members};
use chaos::workload::Workload;
use chaos::workload::mix::EVERYTHING;
use rand::rngs::StdRng;
use rand::seq::index::sample;
use rand::{Rng, SeedableRng};

const MEMBERS: usize = 3;
/// How often the power goes, unless the environment says otherwise.
const CYCLES: usize = 200;
/// How often with the same clients. Then their history is judged, and everything begins anew.
const ROUND: usize = 20;
/// Acknowledged writes between two losses of power.
const WRITES: std::ops::Range<usize> = 10..60;
/// How long the store may take to answer after the power is back.
const PATIENCE: Duration = Duration::from_secs(60);
/// Violations that are printed.
const SHOWN: usize = 20;

/// How members are started, in turn. Some cut their log all the time.
const FLAGS: &[&[&str]] = &[
    &["--heartbeat-interval=50", "--election-timeout=500"],
    &["--heartbeat-interval=50", "--election-timeout=500", "--snapshot-count=100"],
];

/// The power goes once.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Loss {
    /// Whose.
    victims: Vec<usize>,
    /// After so many acknowledged writes.
    writes: usize,
}

/// When the power goes: for one, two and all members equally often, in no order.
fn schedule(random: &mut StdRng, losses: usize) -> Vec<Loss> {
    let loss = |number: usize| {
        let victims = sample(random, MEMBERS, 1 + number % MEMBERS).into_vec();
        Loss { victims, writes: random.random_range(WRITES) }
    };
    let mut losses: Vec<Loss> = (0..losses).map(loss).collect();
    rand::seq::SliceRandom::shuffle(&mut losses[..], random);
    losses
}

/// What came of it, added up.
#[derive(Debug, Default)]
struct Tally {
    /// How often one, two and all members lost power.
    losses: [usize; MEMBERS],
    /// Writes that were acknowledged since the power had gone before.
    at_risk: usize,
    /// Bytes at the ends of files that were gone.
    unsynced: u64,
    /// Revisions that a client knew and the store did not.
    forgotten: i64,
    /// From the moment the power is gone until a client is answered: the longest, and all of them.
    longest: Duration,
    silent: Duration,
    violations: Vec<Violation>,
    calls: usize,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.losses.iter_mut().zip(other.losses).for_each(|(sum, more)| *sum += more);
        self.at_risk += other.at_risk;
        self.unsynced += other.unsynced;
        self.forgotten += other.forgotten;
        self.longest = self.longest.max(other.longest);
        self.silent += other.silent;
        self.violations.extend(other.violations);
        self.calls += other.calls;
    }

    fn line(&self) -> String {
        let [one, two, all] = self.losses;
        let (times, kib) = (self.losses.iter().sum::<usize>().max(1), self.unsynced / 1024);
        let (mean, longest) = (self.silent.as_secs_f64() / times as f64, self.longest.as_secs_f64());
        let Self { at_risk, forgotten, violations, calls, .. } = self;
        format!(
            "power lost {one} times by one member, {two} by two, {all} by all, answers again after {mean:.2} s, \
             {longest:.2} s at most; {calls} calls, {at_risk} acknowledged writes at risk; lost: {kib} KiB that were \
             not synced, {forgotten} revisions; {} violations",
            violations.len()
        )
    }
}

/// A store whose members have disks of their own. The members go before the disks.
struct Store {
    members: Members,
    disks: Disks,
}

impl Store {
    async fn start(kind: Kind, folder: &Path, flags: &[&str]) -> chaos::Result<Self> {
        let disks = Disks::make(folder, MEMBERS)?;
        let members = Members::start(kind, folder, MEMBERS, flags).await?;
        Ok(Self { members, disks })
    }

    /// The power goes, and comes back.
    async fn lose(&mut self, loss: &Loss, workload: &mut Workload) -> chaos::Result<Tally> {
        let mut tally = Tally::default();
        let before = workload.counts().written;
        workload.writes(loss.writes).await?;
        self.members.still_there()?;
        let mut files = Vec::new();
        for victim in &loss.victims {
            files.push(self.disks.files(*victim)?);
            workload.mark(*victim, Happening::Ended);
        }
        let dark = Instant::now();
        self.disks.cut(&self.members, &loss.victims)?;
        loss.victims.iter().try_for_each(|victim| self.members.kill(*victim))?;
        tally.at_risk = workload.counts().written - before;
        let known = workload.newest();
        for (victim, before) in loss.victims.iter().zip(files) {
            self.disks.restore(*victim)?;
            tally.unsynced += shortened(&before, &self.disks.files(*victim)?);
            workload.mark(*victim, Happening::Started);
            self.members.start_member(*victim)?;
        }
        tally.forgotten = (known - self.revision().await?).max(0);
        (tally.longest, tally.silent) = (dark.elapsed(), dark.elapsed());
        tally.losses[loss.victims.len() - 1] = 1;
        Ok(tally)
    }

    /// The store's revision as the first member that can tell has it.
    async fn revision(&mut self) -> chaos::Result<i64> {
        let start = Instant::now();
        for member in (0..MEMBERS).cycle() {
            self.members.still_there()?;
            let ask = async {
                let read = self.members.client(member).await.ok()?.get("k0", None).await.ok()?;
                read.header().map(|header| header.revision())
            };
            if let Ok(Some(revision)) = tokio::time::timeout(Duration::from_millis(500), ask).await {
                return Ok(revision);
            }
            if start.elapsed() > PATIENCE {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let hint = format!("see the logs beside {}", self.members.log(0).display());
        Err(chaos::Error::Late {
            what: "an answer after the power was back".into(),
            seconds: PATIENCE.as_secs(),
            hint,
        })
    }
}

/// Loses power some times with the same clients, then judges what they were told.
async fn round(store: &mut Store, losses: &[Loss], seed: u64, folder: &Path) -> chaos::Result<Tally> {
    let mut workload = Workload::start(store.members.client_urls(), EVERYTHING, seed);
    let mut tally = Tally::default();
    for loss in losses {
        tally.add(store.lose(loss, &mut workload).await?);
    }
    store.members.ready().await?;
    let (history, last) = workload.finish().await?;
    history.save(&folder.join("history.jsonl"))?;
    tally.calls = history.calls.len();
    tally.violations = check(&history);
    tally.violations.extend(identical(last, &store.members.digests(last).await?));
    Ok(tally)
}

fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("power").join(name);
    let _ = std::fs::remove_dir_all(&folder);
    folder
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect(name))
}

fn binary() -> PathBuf {
    std::env::var_os("TRIREME_BIN").expect("TRIREME_BIN is the path of a built trireme").into()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, and a built trireme: TRIREME_BIN"]
async fn what_was_acknowledged_survives_a_loss_of_power() {
    if !isolated::inside("what_was_acknowledged_survives_a_loss_of_power").unwrap() {
        return;
    }
    let seed = number("TRIREME_SEED").unwrap_or_else(rand::random);
    let cycles = number("TRIREME_CYCLES").map_or(CYCLES, |n| usize::try_from(n).unwrap());
    println!("TRIREME_SEED={seed} TRIREME_CYCLES={cycles}");
    let (mut random, start) = (StdRng::seed_from_u64(seed), Instant::now());
    let mut sum = Tally::default();
    for (number, first) in (0..cycles).step_by(ROUND).enumerate() {
        let losses = schedule(&mut random, ROUND.min(cycles - first));
        let (folder, begun) = (folder(&format!("round-{number}")), Instant::now());
        let flags = FLAGS[number % FLAGS.len()];
        let mut store = Store::start(Kind::Ours(binary()), &folder, flags).await.unwrap();
        let tally = round(&mut store, &losses, random.random(), &folder).await;
        let tally = tally.unwrap_or_else(|error| {
            panic!("round {number}: {error}: {:?}", std::error::Error::source(&error))
        });
        tally.violations.iter().take(SHOWN).for_each(|violation| println!("  {violation}"));
        println!("round {number} in {:.1} s: {}", begun.elapsed().as_secs_f64(), tally.line());
        assert!(tally.violations.is_empty() && tally.forgotten == 0, "see {}", folder.display());
        sum.add(tally);
        drop(store);
        std::fs::remove_dir_all(&folder).unwrap();
    }
    println!("all in {:.1} s: {}", start.elapsed().as_secs_f64(), sum.line());
    assert_eq!(sum.losses.iter().sum::<usize>(), cycles);
    assert!(sum.losses.iter().all(|times| *times >= cycles / 4), "all kinds of losses");
    assert!(sum.at_risk >= cycles * WRITES.start, "too little was at risk");
    assert!(sum.unsynced > 0, "no byte was lost: the power was not taken");
}

/// The control: all members lose power, and what they have written since their disks lie is gone.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, and a built trireme: TRIREME_BIN"]
async fn disks_that_lie_are_found_out() {
    if !isolated::inside("disks_that_lie_are_found_out").unwrap() {
        return;
    }
    let folder = folder("lies");
    let liar = Liar::make(&folder, &binary()).unwrap();
    let mut store = Store::start(Kind::Ours(liar.program.clone()), &folder, FLAGS[0]).await.unwrap();
    liar.begin().unwrap();
    let loss = Loss { victims: (0..MEMBERS).collect(), writes: WRITES.end };
    let tally = round(&mut store, &[loss], 1, &folder).await.unwrap();
    println!("{}", tally.line());
    assert!(tally.forgotten > 0, "nothing is lost on disks that lie: the rig proves nothing");
    let told = |rule| tally.violations.iter().any(|violation| violation.rule == rule);
    assert!(told(Rule::RealTime) || told(Rule::OneRevision), "what was lost was not found");
    drop(store);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_seed_says_whose_power_goes() {
    let of = |seed| schedule(&mut StdRng::seed_from_u64(seed), 30);
    assert_eq!(of(7), of(7));
    assert_ne!(of(7), of(8));
    for count in 1..=MEMBERS {
        assert_eq!(of(7).iter().filter(|loss| loss.victims.len() == count).count(), 10);
    }
}

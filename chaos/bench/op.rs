//! The single operations whose rate and time are measured. A wrong answer is an error like none at all.

use etcd_client::{Compare, CompareOp, GetOptions, KvClient, Txn, TxnOp};

use crate::Result;

/// Keys that puts are spread over.
const SPREAD: u64 = 100_000;

/// What a client does again and again.
#[derive(Clone, Copy)]
pub(crate) enum Op {
    /// Puts a value of so many bytes to some key.
    Put(usize),
    /// Reads one of the prepared keys, linearizably.
    Get,
    /// Puts a value of so many bytes if the key's mod revision is the one that is known.
    Txn(usize),
    /// Reads so many of the prepared keys at once, linearizably.
    Range(i64),
}

/// One client and what it remembers.
pub(crate) struct Actor {
    kv: KvClient,
    op: Op,
    /// Keys that were prepared.
    keys: usize,
    number: u64,
    turn: u64,
    /// The revision of this client's last transaction.
    revision: i64,
    value: Vec<u8>,
}

/// The name of a prepared key.
pub(crate) fn key(number: u64) -> String {
    format!("bench/keys/{number:08}")
}

/// What all prepared keys begin with.
const PREFIX: &str = "bench/keys/";

/// A value of so many bytes that does not compress to nothing.
pub(crate) fn value(bytes: usize, seed: u64) -> Vec<u8> {
    (0..bytes as u64).map(|place| mix(seed ^ (place / 8) << 32).to_le_bytes()[place as usize % 8]).collect()
}

/// Spreads numbers evenly, the same way in every run (splitmix64).
pub(crate) fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl Actor {
    pub(crate) fn new(kv: KvClient, op: Op, keys: usize, number: u64) -> Self {
        let bytes = match op {
            Op::Put(bytes) | Op::Txn(bytes) => bytes,
            Op::Get | Op::Range(_) => 0,
        };
        Self { kv, op, keys, number, turn: 0, revision: 0, value: value(bytes, number) }
    }

    /// A number that differs from turn to turn and from client to client.
    fn random(&mut self) -> u64 {
        self.turn += 1;
        mix(self.number << 32 | self.turn)
    }

    /// Performs the operation once.
    pub(crate) async fn act(&mut self) -> Result<()> {
        let random = self.random();
        match self.op {
            Op::Put(_) => {
                let key = format!("bench/puts/{:08}", random % SPREAD);
                self.kv.put(key, self.value.clone(), None).await?;
            }
            Op::Get => {
                let answer = self.kv.get(key(random % self.keys as u64), None).await?;
                expect("keys", answer.kvs().len(), 1)?;
            }
            Op::Txn(_) => self.replace().await?,
            Op::Range(limit) => {
                let options = GetOptions::new().with_prefix().with_limit(limit);
                let answer = self.kv.get(PREFIX, Some(options)).await?;
                expect("keys", answer.kvs().len(), usize::try_from(limit)?)?;
                expect("keys counted", usize::try_from(answer.count())?, self.keys)?;
            }
        }
        Ok(())
    }

    async fn replace(&mut self) -> Result<()> {
        let key = format!("bench/txns/{:08}", self.number);
        let unchanged = Compare::mod_revision(key.clone(), CompareOp::Equal, self.revision);
        let put = TxnOp::put(key.clone(), self.value.clone(), None);
        let txn = Txn::new().when([unchanged]).and_then([put]).or_else([TxnOp::get(key, None)]);
        let answer = self.kv.txn(txn).await?;
        if !answer.succeeded() {
            return Err("nobody else writes this key, and yet its revision was another".into());
        }
        self.revision = answer.header().ok_or("a transaction's answer had no header")?.revision();
        Ok(())
    }
}

fn expect(what: &str, there: usize, expected: usize) -> Result<()> {
    if there == expected {
        return Ok(());
    }
    Err(format!("{there} {what} in the answer, not {expected}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_size_and_differ() {
        assert_eq!((value(256, 1).len(), value(3, 1).len(), value(0, 1).len()), (256, 3, 0));
        assert_ne!(value(256, 1), value(256, 2));
        assert_ne!(value(16, 1)[..8], value(16, 1)[8..]);
    }
}

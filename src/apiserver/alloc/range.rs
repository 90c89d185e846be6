//! Choosing from a range: upstream's split into a lower band for values that people pick and an upper band for
//! values that the allocator picks, so that the two seldom meet. Pure but for the random start given in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Ranges larger than this are used in part: 2^64 addresses are enough.
const LARGEST: u128 = 1 << 64;

/// The address so many after the network's own.
pub(super) fn nth(net: &IpNet, offset: u128) -> IpAddr {
    match net.network() {
        IpAddr::V4(base) => {
            let offset = u32::try_from(offset).unwrap_or(u32::MAX);
            IpAddr::V4(Ipv4Addr::from_bits(base.to_bits().saturating_add(offset)))
        }
        IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from_bits(base.to_bits().saturating_add(offset))),
    }
}

/// The first usable address: the API's own service.
pub(crate) fn first_address(net: &IpNet) -> IpAddr {
    nth(net, 1)
}

/// Offsets of the usable addresses: neither the network's own nor, in IPv4, the broadcast one.
fn usable(net: &IpNet) -> (u128, u128) {
    let bits = u32::from(net.max_prefix_len() - net.prefix_len());
    let size = 1_u128.checked_shl(bits).unwrap_or(LARGEST).min(LARGEST);
    let last = if net.addr().is_ipv4() { size.saturating_sub(2) } else { size.saturating_sub(1) };
    (1, last)
}

/// Whether a service may have the address.
pub(super) fn contains(net: &IpNet, ip: IpAddr) -> bool {
    let (first, last) = usable(net);
    let offset = match (net.network(), ip) {
        (IpAddr::V4(base), IpAddr::V4(ip)) => {
            u128::from(ip.to_bits()).checked_sub(u128::from(base.to_bits()))
        }
        (IpAddr::V6(base), IpAddr::V6(ip)) => ip.to_bits().checked_sub(base.to_bits()),
        _ => None,
    };
    net.contains(&ip) && offset.is_some_and(|offset| (first..=last).contains(&offset))
}

/// How many of so many values are left to people: a sixteenth, at least 16, at most 256; none of a small range.
fn static_band(size: u128, smallest: u128, largest: u128, step: u128) -> u128 {
    if size < smallest { 0 } else { (size / step).clamp(smallest, largest) }
}

/// A free value of `first..=last`: first from the upper band, starting at a random place, then from the lower.
fn choose(first: u128, last: u128, band: u128, random: u64, taken: impl Fn(u128) -> bool) -> Option<u128> {
    let around = |from: u128, to: u128| {
        let size = (to + 1).saturating_sub(from);
        let start = if size == 0 { 0 } else { u128::from(random) % size };
        (0..size).map(move |i| from + (start + i) % size)
    };
    let split = first + band;
    around(split, last).chain(around(first, split.saturating_sub(1).min(last))).find(|value| !taken(*value))
}

/// A free address.
pub(super) fn choose_address(net: &IpNet, random: u64, taken: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let (first, last) = usable(net);
    let band = static_band(last.saturating_sub(first) + 1, 16, 256, 16);
    choose(first, last, band, random, |offset| taken(nth(net, offset))).map(|offset| nth(net, offset))
}

/// A free port of the range, both ends included.
pub(super) fn choose_port(range: (u16, u16), random: u64, taken: impl Fn(u16) -> bool) -> Option<u16> {
    let (first, last) = (u128::from(range.0), u128::from(range.1));
    let band = static_band(last - first + 1, 16, 128, 32);
    let port = |value: u128| u16::try_from(value).unwrap_or(u16::MAX);
    choose(first, last, band, random, |value| taken(port(value))).map(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_that_services_may_have() {
        let check = |range: &str, ip: &str, expect: bool| {
            assert_eq!(contains(&net(range), ip.parse().unwrap()), expect, "{ip} in {range}");
        };
        check("10.96.0.0/12", "10.96.0.0", false);
        check("10.96.0.0/12", "10.96.0.1", true);
        check("10.96.0.0/12", "10.111.255.254", true);
        check("10.96.0.0/12", "10.111.255.255", false);
        check("10.96.0.0/12", "10.112.0.1", false);
        check("10.96.0.0/12", "fd00::1", false);
        check("fd00::/108", "fd00::1", true);
        check("fd00::/108", "fd00::", false);
        check("fd00::/108", "fd00::f:ffff", true);
        assert_eq!(first_address(&net("10.96.0.0/12")).to_string(), "10.96.0.1");
    }

    #[test]
    fn the_upper_band_comes_first() {
        let check = |range: &str, random: u64, free_below: u32, expect: Option<&str>| {
            let base = match net(range).network() {
                IpAddr::V4(base) => base.to_bits(),
                IpAddr::V6(_) => 0,
            };
            // Everything from `free_below` on is taken.
            let taken = |ip: IpAddr| matches!(ip, IpAddr::V4(ip) if ip.to_bits() - base >= free_below);
            let found = choose_address(&net(range), random, taken).map(|ip| ip.to_string());
            assert_eq!(found.as_deref(), expect, "{range} {random} {free_below}");
        };
        check("10.0.0.0/24", 0, 256, Some("10.0.0.17"));
        check("10.0.0.0/24", 5, 256, Some("10.0.0.22"));
        check("10.0.0.0/16", 0, 1 << 16, Some("10.0.1.1"));
        check("10.0.0.0/24", 0, 17, Some("10.0.0.1"));
        check("10.0.0.0/24", 3, 17, Some("10.0.0.4"));
        check("10.0.0.0/24", 0, 0, None);
        check("10.0.0.0/29", 0, 256, Some("10.0.0.1"));
        check("10.0.0.0/29", 7, 256, Some("10.0.0.2"));
    }

    #[test]
    fn every_address_is_found_once() {
        let range = net("10.0.0.0/26");
        let mut taken = std::collections::BTreeSet::new();
        for random in 0.. {
            match choose_address(&range, random * 31, |ip| taken.contains(&ip)) {
                Some(ip) => assert!(contains(&range, ip) && taken.insert(ip)),
                None => break,
            }
        }
        assert_eq!(taken.len(), 62);
    }

    #[test]
    fn ports() {
        assert_eq!(choose_port((30000, 32767), 0, |_| false), Some(30086));
        assert_eq!(choose_port((30000, 32767), 0, |port| port >= 30086), Some(30000));
        assert_eq!(choose_port((30000, 30000), 9, |_| false), Some(30000));
        assert_eq!(choose_port((30000, 30001), 9, |_| true), None);
    }
}

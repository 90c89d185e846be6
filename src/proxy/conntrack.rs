//! Deletes remembered UDP connections that go to endpoints that are gone.
//!
//! UDP has no end of a connection, so a client that keeps sending from one port would be sent to the same dead
//! endpoint for ever. Keeps true: only connections to addresses and node ports of services are touched, and only
//! if their endpoint is not one of the service's present ones. Talks to the kernel by netlink, in the network
//! namespace of the calling thread; blocks for as long as the kernel takes.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, setsockopt,
    socket, sockopt::ReceiveTimeout,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::ruleset::Udp;

/// Subsystem 1 (connection tracking), messages get and delete.
const GET: u16 = 0x101;
const DELETE: u16 = 0x102;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Attributes of a connection.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const IPPROTO_UDP: u8 = 17;

/// One remembered connection.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Flow {
    protocol: u8,
    /// Where the client sent to.
    wanted: SocketAddrV4,
    /// Who answers.
    answers: SocketAddrV4,
    /// The attributes by which the kernel finds it again.
    identity: Vec<u8>,
}

/// Deletes the stale ones; tells how many.
pub fn clean(udp: &Udp, local: &BTreeSet<Ipv4Addr>) -> io::Result<usize> {
    if udp.services.is_empty() && udp.node_ports.is_empty() {
        return Ok(0);
    }
    let socket = open()?;
    let stale: Vec<Flow> = dump(&socket)?.into_iter().filter(|f| is_stale(f, udp, local)).collect();
    for flow in &stale {
        delete(&socket, flow)?;
    }
    Ok(stale.len())
}

fn is_stale(flow: &Flow, udp: &Udp, local: &BTreeSet<Ipv4Addr>) -> bool {
    if flow.protocol != IPPROTO_UDP {
        return false;
    }
    let here = || local.contains(flow.wanted.ip()) && !flow.wanted.ip().is_loopback();
    let endpoints = udp.services.get(&flow.wanted);
    let endpoints = endpoints.or_else(|| udp.node_ports.get(&flow.wanted.port()).filter(|_| here()));
    endpoints.is_some_and(|endpoints| !endpoints.contains(&flow.answers))
}

fn open() -> io::Result<OwnedFd> {
    let protocol = SockProtocol::NetlinkNetFilter;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(5))?;
    Ok(socket)
}

fn send(socket: &OwnedFd, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(20 + body.len()).map_err(io::Error::other)?;
    let mut message = Vec::with_capacity(20 + body.len());
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((flags | REQUEST).to_ne_bytes());
    message.extend([0; 8]);
    // Family, version, resource.
    message.extend([AddressFamily::Inet as u8, 0, 0, 0]);
    message.extend(body);
    sendto(socket.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    Ok(())
}

fn dump(socket: &OwnedFd) -> io::Result<Vec<Flow>> {
    send(socket, GET, DUMP, &[])?;
    let mut flows = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        for message in messages(&buffer[..length]) {
            match message.kind {
                DONE => return Ok(flows),
                ERROR => check(message.body)?,
                _ => flows.extend(message.body.get(4..).and_then(flow)),
            }
        }
    }
}

fn delete(socket: &OwnedFd, flow: &Flow) -> io::Result<()> {
    send(socket, DELETE, ACK, &flow.identity)?;
    let mut buffer = [0; 4096];
    let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    let answer = messages(&buffer[..length]).find(|m| m.kind == ERROR).map_or(Ok(()), |m| check(m.body));
    match answer {
        // Gone by itself meanwhile.
        Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => Ok(()),
        other => other,
    }
}

/// The result in an error message; 0 is an acknowledgement.
fn check(body: &[u8]) -> io::Result<()> {
    let code = body.first_chunk::<4>().map_or(0, |c| i32::from_ne_bytes(*c));
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) }
}

struct Message<'a> {
    kind: u16,
    body: &'a [u8],
}

fn messages(mut rest: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(*rest.first_chunk()?)).ok()?;
        let kind = u16::from_ne_bytes([*rest.get(4)?, *rest.get(5)?]);
        let body = rest.get(16..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, body })
    })
}

/// Attributes with their number, value and the bytes of both.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8], &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        // The two highest bits are flags.
        let number = u16::from_ne_bytes([*rest.get(2)?, *rest.get(3)?]) & 0x3fff;
        let value = rest.get(4..length)?;
        let padded = length.next_multiple_of(4).min(rest.len());
        let whole = &rest[..padded];
        rest = &rest[padded..];
        Some((number, value, whole))
    })
}

fn attribute(from: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(from).find(|(number, ..)| *number == wanted).map(|(_, value, _)| value)
}

fn flow(body: &[u8]) -> Option<Flow> {
    let original = attribute(body, ORIGINAL)?;
    let reply = attribute(body, REPLY)?;
    let by_these = attributes(body).filter(|(number, ..)| [ORIGINAL, ID, ZONE].contains(number));
    Some(Flow {
        protocol: *attribute(attribute(original, 2)?, 1)?.first()?,
        wanted: SocketAddrV4::new(address(original, 2)?, port(original, 3)?),
        answers: SocketAddrV4::new(address(reply, 1)?, port(reply, 2)?),
        identity: by_these.flat_map(|(.., whole)| whole.iter().copied()).collect(),
    })
}

/// Address 1 (source) or 2 (destination) of a tuple.
fn address(tuple: &[u8], which: u16) -> Option<Ipv4Addr> {
    attribute(attribute(tuple, 1)?, which)?.first_chunk::<4>().map(|bytes| Ipv4Addr::from(*bytes))
}

/// Port 2 (source) or 3 (destination) of a tuple.
fn port(tuple: &[u8], which: u16) -> Option<u16> {
    attribute(attribute(tuple, 2)?, which)?.first_chunk::<2>().map(|bytes| u16::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::{Flow, is_stale, messages};
    use crate::ruleset::Udp;

    #[test]
    fn only_connections_to_gone_endpoints_are_stale() {
        let udp = Udp {
            services: [
                ("10.96.0.10:53".parse().unwrap(), ["10.244.1.2:53".parse().unwrap()].into()),
                ("10.96.0.11:53".parse().unwrap(), [].into()),
            ]
            .into(),
            node_ports: [(30053, ["10.244.1.2:53".parse().unwrap()].into())].into(),
        };
        let check = |protocol, wanted: &str, answers: &str, expect: bool| {
            let (wanted, answers) = (wanted.parse().unwrap(), answers.parse().unwrap());
            let flow = Flow { protocol, wanted, answers, identity: Vec::new() };
            assert_eq!(is_stale(&flow, &udp, &["10.90.0.21".parse().unwrap()].into()), expect, "{flow:?}");
        };
        check(17, "10.96.0.10:53", "10.244.1.2:53", false);
        check(17, "10.96.0.10:53", "10.244.1.3:53", true);
        check(6, "10.96.0.10:53", "10.244.1.3:53", false);
        check(17, "10.96.0.11:53", "10.96.0.11:53", true);
        check(17, "10.90.0.21:30053", "10.244.9.9:53", true);
        check(17, "8.8.8.8:30053", "8.8.8.8:30053", false);
        check(17, "8.8.8.8:53", "8.8.8.8:53", false);
    }

    #[test]
    fn broken_messages_end_the_list() {
        assert_eq!(messages(&[]).count(), 0);
        assert_eq!(messages(&[255; 7]).count(), 0);
        assert_eq!(messages(&[0; 64]).count(), 0);
    }
}

//! Which addresses are connected to. Those of metadata services, link-local ones and what no host has are refused whatever is
//! configured; those within this machine and the networks around it unless they are allowed. What isn't encrypted goes to
//! these alone. A name is looked up once, and what was judged is what is connected to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

use super::{Failure, Trust};

/// Where an address lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reach {
    /// Anywhere.
    Public,
    /// On this machine, or in a network around it.
    Private,
    /// Nobody's to connect to.
    Never,
}

/// The addresses of a host that may be connected to. `encrypted` says whether nobody on the way can read what is sent.
pub(super) fn addresses(host: &str, port: u16, encrypted: bool, trust: &Trust) -> Result<Vec<SocketAddr>, Failure> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let found: Vec<SocketAddr> = (bare, port)
        .to_socket_addrs()
        .map_err(|_| {
            Failure::new(
                "notice-unreachable",
                "its host has no address; is the name right, and does the name server answer?",
            )
        })?
        .collect();
    let reach = |address: &SocketAddr| reach(address.ip());
    let may = |address: &&SocketAddr| match reach(address) {
        Reach::Public => encrypted,
        Reach::Private => trust.private,
        Reach::Never => false,
    };
    let allowed: Vec<SocketAddr> = found.iter().filter(may).copied().collect();
    if !allowed.is_empty() {
        return Ok(allowed);
    }
    let is_any = |wanted: Reach| found.iter().any(|address| reach(address) == wanted);
    let why = if is_any(Reach::Public) {
        "its address is a public one, where whoever is on the way can read what isn't encrypted; use https:// or smtps://"
    } else if is_any(Reach::Private) {
        "its address is within this machine or a network around it; if that is meant, set BACKUP_NOTIFY_PRIVATE=true"
    } else {
        "its address is one that nothing is ever sent to (link-local, a metadata service, or no host's); use another"
    };
    Err(Failure::new("notice-address", why))
}

fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(address) => reach_of_v4(address),
        IpAddr::V6(address) => reach_of_v6(address),
    }
}

/// Metadata services that lie where others do: Alibaba's, Oracle's, Azure's.
const METADATA: [Ipv4Addr; 3] =
    [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192), Ipv4Addr::new(168, 63, 129, 16)];

fn reach_of_v4(address: Ipv4Addr) -> Reach {
    let [a, b, c, _] = address.octets();
    let is_nobodys = a == 0 || a >= 224 || address.is_link_local();
    if is_nobodys || METADATA.contains(&address) {
        return Reach::Never;
    }
    let is_shared = a == 100 && (64..128).contains(&b);
    let is_special = (a, b, c) == (192, 0, 0) || a == 198 && (18..20).contains(&b);
    let is_private = address.is_loopback() || address.is_private() || is_shared || is_special;
    if is_private { Reach::Private } else { Reach::Public }
}

fn reach_of_v6(address: Ipv6Addr) -> Reach {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let v4 = |high: u16, low: u16| reach_of_v4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match (a, b, c, d, e, f) {
        _ if address == Ipv6Addr::LOCALHOST => Reach::Private,
        // Addresses of IPv4 in other clothes: mapped, compatible, translated (RFC 6052, also by way of RFC 2765), 6to4.
        (0, 0, 0, 0, 0, 0xffff | 0) | (0, 0, 0, 0, 0xffff, 0) | (0x64, 0xff9b, 0, 0, 0, 0) => v4(g, h),
        (0x2002, ..) => v4(b, c),
        // Translation by a prefix of the network's own, and Teredo: nobody knows where that leads.
        (0x64, 0xff9b, ..) | (0x2001, 0, ..) => Reach::Never,
        // Metadata services of Amazon, Google and Scaleway.
        (0xfd00, 0xec2, ..) | (0xfd20, 0xce, ..) | (0xfd00, 0x42, 0, 0, 0, 0) => Reach::Never,
        // An interface's own IPv4 address at its end (ISATAP, RFC 5214) reaches what that one does.
        (.., 0x5efe) if e & !0x200 == 0 => match v4(g, h) {
            Reach::Public => Reach::Private,
            other => other,
        },
        // To be thrown away (RFC 6666).
        (0x100, 0, 0, 0, ..) => Reach::Never,
        // Link-local, site-local, multicast, and what is for nothing at all.
        _ if a & 0xffc0 == 0xfe80 || a & 0xffc0 == 0xfec0 || a & 0xff00 == 0xff00 || a & 0xff00 == 0 => Reach::Never,
        _ if a & 0xfe00 == 0xfc00 => Reach::Private,
        _ => Reach::Public,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: &[&str] = &[
        "0.0.0.0",
        "0.1.2.3",
        "169.254.169.254",
        "169.254.0.1",
        "100.100.100.200",
        "192.0.0.192",
        "168.63.129.16",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "fe80::1",
        "febf::1",
        "fec0::1",
        "ff02::1",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
        "fd00:42::42",
        "::ffff:169.254.169.254",
        "::169.254.169.254",
        "::ffff:0:a9fe:a9fe",
        "64:ff9b::169.254.169.254",
        "64:ff9b:1::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "2001:0:a9fe:a9fe::1",
        "2001:db8::5efe:169.254.169.254",
        "::ffff:0.0.0.0",
        "100::1",
    ];
    const PRIVATE: &[&str] = &[
        "127.0.0.1",
        "127.255.255.254",
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "100.64.0.1",
        "198.18.0.1",
        "192.0.0.1",
        "::1",
        "fc00::1",
        "fd12:3456::1",
        "::ffff:127.0.0.1",
        "::ffff:192.168.0.7",
        "::127.0.0.1",
        "64:ff9b::10.0.0.1",
        "2002:7f00:1::1",
    ];
    const PUBLIC: &[&str] = &[
        "1.1.1.1",
        "172.15.0.1",
        "172.32.0.1",
        "100.63.0.1",
        "100.128.0.1",
        "169.253.0.1",
        "193.0.0.1",
        "2606:4700::1111",
        "2a00::1",
        "::ffff:1.1.1.1",
        "64:ff9b::1.1.1.1",
        "2002:101:101::1",
    ];

    #[test]
    fn every_address_has_its_reach() {
        for (list, wanted) in [(NEVER, Reach::Never), (PRIVATE, Reach::Private), (PUBLIC, Reach::Public)] {
            for text in list {
                assert_eq!(reach(text.parse().unwrap()), wanted, "{text}");
            }
        }
    }

    fn judged(host: &str, encrypted: bool, private: bool) -> Result<usize, &'static str> {
        let trust = Trust { private, authorities: None };
        addresses(host, 443, encrypted, &trust).map(|found| found.len()).map_err(|failure| failure.code)
    }

    /// Odd ways to write an address, as C libraries and browsers read them.
    #[test]
    fn an_address_is_judged_however_it_is_written() {
        for odd in ["2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518", "[::ffff:169.254.169.254]"] {
            for private in [false, true] {
                assert_eq!(judged(odd, true, private), Err("notice-address"), "{odd}");
            }
        }
        for odd in ["2130706433", "0x7f.1", "127.1", "017700000001", "localhost", "[::1]"] {
            assert_eq!(judged(odd, true, false), Err("notice-address"), "{odd}");
            assert!(judged(odd, true, true).is_ok_and(|count| count > 0), "{odd}");
        }
        assert_eq!(judged("no-such-host.invalid", true, true), Err("notice-unreachable"));
    }

    #[test]
    fn what_is_not_encrypted_stays_in_the_house() {
        assert_eq!(judged("1.1.1.1", false, true), Err("notice-address"));
        assert_eq!(judged("1.1.1.1", true, false), Ok(1));
        assert_eq!(judged("192.168.1.1", false, true), Ok(1));
    }
}

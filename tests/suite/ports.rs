//! Where one may listen, for programs that want to be told.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below what the system gives to whoever asks for no port of their own (32768 and on: `ip_local_port_range`), which any client
/// of a test could have taken again before the program comes to it.
const FIRST: u16 = 10_000;
const COUNT: u16 = 20_000;

/// Given to nobody else in this run, and free a moment ago under both of the machine's own addresses.
pub fn free_address() -> SocketAddr {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    // Two runs at once begin at other places.
    let begin = std::process::id().wrapping_mul(7919);
    loop {
        let given = GIVEN.fetch_add(1, Ordering::Relaxed);
        assert!(given < COUNT, "no port is free from {FIRST} on");
        let offset = begin.wrapping_add(u32::from(given)) % u32::from(COUNT);
        let port = FIRST + u16::try_from(offset).unwrap();
        if is_free((Ipv4Addr::LOCALHOST, port).into()) && is_free((Ipv6Addr::LOCALHOST, port).into()) {
            return (Ipv4Addr::LOCALHOST, port).into();
        }
    }
}

/// Where the machine has no such address at all, it is free.
fn is_free(address: SocketAddr) -> bool {
    !matches!(TcpListener::bind(address), Err(error) if error.kind() == std::io::ErrorKind::AddrInUse)
}

//! Who is asking, and how often they may.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use actix_governor::governor::NotUntil;
use actix_governor::governor::clock::{Clock, DefaultClock, QuantaInstant};
use actix_governor::governor::middleware::NoOpMiddleware;
use actix_governor::{Governor, GovernorConfig, GovernorConfigBuilder, KeyExtractor};
use actix_web::dev::ServiceRequest;
use actix_web::http::Method;
use actix_web::http::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use actix_web::{HttpMessage, HttpResponse, HttpResponseBuilder, ResponseError};
use ipnet::IpNet;

use super::admit::Admitted;
use super::problem::{Problem, TOO_MANY_REQUESTS};

/// Refused sign-ins that one address, or one user, may make in a minute before it is told to wait.
const REFUSALS_PER_MINUTE: u32 = 30;
/// Refusals that are recorded in a minute, from wherever they come.
const RECORDS_PER_MINUTE: u32 = 60;
/// Tests of notices that one user may send in a minute.
const NOTICE_TESTS_PER_MINUTE: u32 = 3;
/// Sessions that one user may open in a minute.
const SIGN_INS_PER_MINUTE: u32 = 10;

/// The address of the client: the peer's, or behind trusted proxies the last one in `X-Forwarded-For` that no trusted
/// proxy has. What comes further left was written by whoever sent the request.
pub fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(&address));
    let mut client = peer.to_canonical();
    let hops: Vec<&str> =
        headers.get_all("x-forwarded-for").flat_map(|value| value.to_str().unwrap_or("?").split(',')).collect();
    for hop in hops.into_iter().rev() {
        if !is_trusted(client) {
            break;
        }
        // What isn't an address was not written by a proxy of ours.
        let Some(hop) = hop_address(hop.trim()) else { break };
        client = hop.to_canonical();
    }
    client
}

/// Some gateways write the port too.
fn hop_address(hop: &str) -> Option<IpAddr> {
    hop.parse().or_else(|_| hop.parse::<SocketAddr>().map(|hop| hop.ip())).ok()
}

/// Of an address, the part that belongs to one customer: all of IPv4, the first 64 bits of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

/// Names and addresses fall into this many buckets, so that the memory of a limit is bounded whoever asks. Which fall
/// together is drawn anew at each start.
const BUCKETS: u64 = 1 << 16;

/// Whether it is a superuser's, and which.
type Bucket = (bool, u16);

/// By what a limit tells one from another.
#[derive(Clone)]
enum By {
    Subject,
    Address,
    /// All together.
    Nothing,
}

/// A limit's key: a bucket.
#[derive(Clone)]
pub struct Keyed {
    by: By,
    hasher: RandomState,
    what: &'static str,
}

impl Keyed {
    /// Whoever isn't allowed to do it uses up nothing of those who are.
    fn bucket(&self, admitted: &Admitted) -> Bucket {
        let superuser = admitted.caller.as_ref().is_some_and(|caller| caller.superuser);
        let hash = match self.by {
            By::Subject => self.hasher.hash_one(admitted.subject()),
            By::Address => self.hasher.hash_one(network(admitted.address)),
            By::Nothing => 0,
        };
        (superuser, (hash % BUCKETS) as u16)
    }

    fn exceeded(&self, negative: &NotUntil<QuantaInstant>) -> Problem {
        let seconds = negative.wait_time_from(DefaultClock::default().now()).as_secs() + 1;
        Problem::new(TOO_MANY_REQUESTS, format!("too many {} in a minute; try again in {seconds} seconds", self.what))
            .header(RETRY_AFTER, HeaderValue::from(seconds))
    }
}

/// Before `admit` nobody is known, and no limit stands there.
#[derive(Debug)]
pub struct NotAdmitted;

impl fmt::Display for NotAdmitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a limit stands on a route that is open")
    }
}

impl ResponseError for NotAdmitted {
    fn error_response(&self) -> HttpResponse {
        Problem::internal(self).error_response()
    }
}

impl KeyExtractor for Keyed {
    type Key = Bucket;
    type KeyExtractionError = NotAdmitted;

    fn extract(&self, request: &ServiceRequest) -> Result<Bucket, NotAdmitted> {
        request.extensions().get::<Admitted>().map(|admitted| self.bucket(admitted)).ok_or(NotAdmitted)
    }

    fn exceed_rate_limit_response(&self, negative: &NotUntil<QuantaInstant>, _: HttpResponseBuilder) -> HttpResponse {
        self.exceeded(negative).error_response()
    }
}

/// A rate, and what has been asked for so far.
pub struct Limit {
    keyed: Keyed,
    config: GovernorConfig<Keyed, NoOpMiddleware>,
}

impl Limit {
    /// `per_minute` at once, and as many in each minute after that.
    fn new(by: By, what: &'static str, per_minute: u32) -> Self {
        let keyed = Keyed { by, hasher: RandomState::new(), what };
        let mut builder = GovernorConfigBuilder::default().key_extractor(keyed.clone());
        let config =
            builder.requests_per_minute(per_minute.into()).burst_size(per_minute).methods(vec![Method::GET]).finish();
        // Only a rate or a burst of nothing is no limit; both are at least 1 by the configuration's bounds.
        #[allow(clippy::expect_used)]
        let config = config.expect("a limit of at least one a minute");
        Self { keyed, config }
    }

    /// The limit before a route; a HEAD hands out nothing and isn't counted.
    pub fn middleware(&self) -> Governor<Keyed, NoOpMiddleware> {
        Governor::new(&self.config)
    }

    fn count(&self, admitted: &Admitted) -> Result<(), Problem> {
        let counted = self.config.limiter().check_key(&self.keyed.bucket(admitted));
        counted.map_err(|negative| self.keyed.exceeded(&negative))
    }
}

/// All limits of a server.
pub struct Limits {
    /// Downloads by user.
    pub downloads_by_subject: Limit,
    /// Downloads by address.
    pub downloads_by_address: Limit,
    refused_by_address: Limit,
    refused_by_subject: Limit,
    sign_ins: Limit,
    notice_tests: Limit,
    records: Limit,
}

impl Limits {
    /// Nothing has been asked for yet.
    pub fn new(downloads_per_minute: u32) -> Self {
        Self {
            downloads_by_subject: Limit::new(By::Subject, "downloads", downloads_per_minute),
            downloads_by_address: Limit::new(By::Address, "downloads", downloads_per_minute),
            refused_by_address: Limit::new(By::Address, "refused sign-ins", REFUSALS_PER_MINUTE),
            refused_by_subject: Limit::new(By::Subject, "refusals", REFUSALS_PER_MINUTE),
            sign_ins: Limit::new(By::Subject, "sign-ins", SIGN_INS_PER_MINUTE),
            notice_tests: Limit::new(By::Subject, "tests of notices", NOTICE_TESTS_PER_MINUTE),
            records: Limit::new(By::Nothing, "refusals", RECORDS_PER_MINUTE),
        }
    }

    /// Whether a refusal may still be recorded: each costs room in the audit log and a write to the disk.
    pub fn may_record(&self, admitted: &Admitted) -> bool {
        self.records.count(admitted).is_ok()
    }

    /// Counts a sign-in, which takes room until its session is over.
    pub fn sign_in(&self, admitted: &Admitted) -> Result<(), Problem> {
        self.sign_ins.count(admitted)
    }

    /// Counts a test of notices.
    pub fn notice_test(&self, admitted: &Admitted) -> Result<(), Problem> {
        self.notice_tests.count(admitted)
    }

    /// Counts a request that isn't let in; beyond the limit the answer is to wait, whatever was tried. A valid token is
    /// let in all the same: nobody can lock out others.
    pub fn refuse(&self, admitted: &Admitted) -> Result<(), Problem> {
        match admitted.caller {
            Some(_) => self.refused_by_subject.count(admitted),
            None => self.refused_by_address.count(admitted),
        }
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderName;

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// The client of a request from `peer` with these `X-Forwarded-For` headers.
    fn of(peer: &str, trusted: &[&str], forwarded: &[&[u8]]) -> String {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            let name = HeaderName::from_static("x-forwarded-for");
            headers.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        let trusted: Vec<IpNet> = trusted.iter().map(|text| text.parse().unwrap()).collect();
        client(address(peer), &headers, &trusted).to_string()
    }

    #[test]
    fn headers_count_only_from_a_trusted_peer_and_from_the_right() {
        let proxies = &["10.0.0.0/8", "fd00::/8"];
        assert_eq!(of("192.0.2.1", &[], &[b"198.51.100.7"]), "192.0.2.1");
        assert_eq!(of("192.0.2.1", proxies, &[b"198.51.100.7"]), "192.0.2.1");
        assert_eq!(of("10.0.0.1", proxies, &[]), "10.0.0.1");
        assert_eq!(of("10.0.0.1", proxies, &[b"198.51.100.7"]), "198.51.100.7");
        assert_eq!(of("10.0.0.1", proxies, &[b"203.0.113.9, 198.51.100.7"]), "198.51.100.7");
        assert_eq!(of("10.0.0.1", proxies, &[b"203.0.113.9,198.51.100.7 ,10.1.1.1,  fd00::2"]), "198.51.100.7");
        // A trusted address that a client has written stands further left than his own.
        assert_eq!(of("10.0.0.1", proxies, &[b"10.9.9.9, 198.51.100.7"]), "198.51.100.7");
    }

    #[test]
    fn several_headers_are_one_list() {
        let proxies = &["10.0.0.0/8"];
        assert_eq!(of("10.0.0.1", proxies, &[b"203.0.113.9", b"198.51.100.7"]), "198.51.100.7");
        assert_eq!(of("10.0.0.1", proxies, &[b"203.0.113.9, 198.51.100.7", b"10.0.0.2", b"10.0.0.3"]), "198.51.100.7");
    }

    #[test]
    fn mapped_addresses_are_those_that_they_stand_for() {
        let proxies = &["10.0.0.0/8"];
        assert_eq!(of("::ffff:10.0.0.1", proxies, &[b"::ffff:198.51.100.7"]), "198.51.100.7");
        assert_eq!(of("10.0.0.1", proxies, &[b"198.51.100.7, ::ffff:10.0.0.2"]), "198.51.100.7");
        assert_eq!(of("::ffff:192.0.2.1", proxies, &[b"198.51.100.7"]), "192.0.2.1");
    }

    #[test]
    fn where_all_are_trusted_it_is_the_first() {
        assert_eq!(of("10.0.0.1", &["10.0.0.0/8"], &[b"10.0.0.4, 10.0.0.3, 10.0.0.2"]), "10.0.0.4");
    }

    /// What isn't an address ends the list: the last that was one is who it is.
    #[test]
    fn junk_is_nobodys_address() {
        let proxies = &["10.0.0.0/8"];
        for junk in ["", "?", "unknown", "_hidden", "198.51.100.7:", "[2001:db8::1]", "256.1.1.1"] {
            assert_eq!(of("10.0.0.1", proxies, &[junk.as_bytes()]), "10.0.0.1", "{junk}");
            let list = format!("203.0.113.9, {junk}, 10.0.0.2");
            assert_eq!(of("10.0.0.1", proxies, &[list.as_bytes()]), "10.0.0.2", "{junk}");
        }
        assert_eq!(of("10.0.0.1", proxies, &[b"203.0.113.9", b"\xff\xfe"]), "10.0.0.1");
    }

    #[test]
    fn a_customer_of_ipv6_is_counted_once_for_all_his_addresses() {
        let limit = Limit::new(By::Address, "downloads", 10);
        let bucket =
            |text: &str| limit.keyed.bucket(&Admitted { address: address(text), caller: None, by_session: false });
        assert_eq!(network(address("2001:db8:1:2:3:4:5:6")), address("2001:db8:1:2::"));
        assert_eq!(bucket("2001:db8:1:2::1"), bucket("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_eq!(network(address("192.0.2.1")), address("192.0.2.1"));
        // Two may fall into one bucket, a hundred don't.
        let others: std::collections::BTreeSet<_> = (0..100).map(|n| bucket(&format!("2001:db8:1:{n:x}::1"))).collect();
        assert!(others.len() > 90, "{}", others.len());
        let others: std::collections::BTreeSet<_> = (0..100).map(|n| bucket(&format!("192.0.2.{n}"))).collect();
        assert!(others.len() > 90, "{}", others.len());
    }
}

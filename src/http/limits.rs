//! Who is asking, and how often they may.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

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
const RECORDS_PER_MINUTE: u32 = 300;
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
        let Ok(hop) = hop.trim().parse::<IpAddr>() else { break };
        client = hop.to_canonical();
    }
    client
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

    fn exceeded(&self, wait: Duration) -> Problem {
        let seconds = wait.as_secs() + 1;
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
        self.exceeded(negative.wait_time_from(DefaultClock::default().now())).error_response()
    }
}

/// A rate, and what has been asked for so far.
#[derive(Clone)]
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
        let wait = |negative: NotUntil<QuantaInstant>| negative.wait_time_from(DefaultClock::default().now());
        let counted = self.config.limiter().check_key(&self.keyed.bucket(admitted));
        counted.map_err(|negative| self.keyed.exceeded(wait(negative)))
    }
}

/// All limits of a server; clones share their state.
#[derive(Clone)]
pub struct Limits {
    /// Downloads by user.
    pub downloads_by_subject: Limit,
    /// Downloads by address.
    pub downloads_by_address: Limit,
    refused_by_address: Limit,
    refused_by_subject: Limit,
    sign_ins: Limit,
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

    /// Counts a request that isn't let in; beyond the limit the answer is to wait, whatever was tried. A valid token is
    /// let in all the same: nobody can lock out others.
    pub fn refuse(&self, admitted: &Admitted) -> Result<(), Problem> {
        match admitted.caller {
            Some(_) => self.refused_by_subject.count(admitted),
            None => self.refused_by_address.count(admitted),
        }
    }
}

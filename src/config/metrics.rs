//! Whether figures are handed out for Prometheus, and to whom.

use super::access::Secret;
use super::{Error, Values};

/// The fewest and the most characters of the token.
const TOKEN_BYTES: std::ops::RangeInclusive<usize> = 16..=1024;

/// What `/metrics` does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Metrics {
    /// It answers at all.
    pub enabled: bool,
    /// What whoever asks has to bring; without one anyone may.
    pub token: Option<Secret>,
}

impl Values {
    pub(super) fn metrics(&self) -> Result<Metrics, Error> {
        Ok(Metrics {
            enabled: self.parse("metrics.enabled", |text| text.parse().ok())?,
            token: self.optional("metrics.token", token)?,
        })
    }
}

/// What fits into a header as it is.
fn token(text: &str) -> Option<Secret> {
    let fits = TOKEN_BYTES.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then(|| Secret::new(text))
}

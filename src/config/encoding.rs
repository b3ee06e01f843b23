//! In which form copies are written, and with which keys. What can't be honoured stops the start: nobody should find out from
//! a stolen disk that nothing was encrypted, or in an emergency that nothing can be decrypted.

use super::{Error, Values, absolute, content, whole};
use crate::codec::{Codec, Identity, Recipient, identities};

const RECIPIENTS: &str = "encryption.recipients";
const IDENTITY_FILE: &str = "encryption.identity_file";

impl Values {
    pub(super) fn codec(&self) -> Result<Codec, Error> {
        let is_compressed = self.parse("compression", |text| match text {
            "none" => Some(false),
            "zstd" => Some(true),
            _ => None,
        })?;
        let level = self.compression_level()?;
        let encrypts = self.parse("encrypt_local", |text| text.parse().ok())?;
        let codec = Codec {
            level: is_compressed.then_some(level),
            encrypts,
            recipients: self.recipients()?,
            identities: self.identities()?,
        };
        if codec.encrypts && codec.recipients.is_empty() {
            let problem = "there is nobody to encrypt to; set BACKUP_ENCRYPTION_RECIPIENTS to what `keygen` prints";
            return Err(self.trouble("encrypt_local", problem));
        }
        let is_recipient = |identity: &Identity| codec.recipients.contains(&identity.recipient());
        if !codec.recipients.is_empty() && !codec.identities.is_empty() && !codec.identities.iter().any(is_recipient) {
            let of: Vec<_> = codec.identities.iter().map(|identity| identity.recipient().to_string()).collect();
            let problem = format!(
                "none of its identities (of {}) is among BACKUP_ENCRYPTION_RECIPIENTS, so what is encrypted now could not be \
                 decrypted here; put the identity of one of them into the file as well, or name the right file",
                of.join(", ")
            );
            return Err(self.trouble(IDENTITY_FILE, &problem));
        }
        Ok(codec)
    }

    pub(super) fn compression_level(&self) -> Result<i32, Error> {
        self.parse("compression_level", |text| whole(text).filter(|level| (1..=19).contains(level)))
    }

    /// One a line, or divided by commas, each once.
    fn recipients(&self) -> Result<Vec<Recipient>, Error> {
        let Some(text) = self.merged.get(RECIPIENTS) else { return Ok(Vec::new()) };
        if text.to_ascii_lowercase().contains("age-secret-key") {
            let problem = "there is an identity (AGE-SECRET-KEY-…) where recipients (age1…) belong; take it out, and think of \
                           who could read it";
            return Err(self.trouble(RECIPIENTS, problem));
        }
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let mut recipients = Vec::new();
        for (number, one) in lines.flat_map(|line| line.split(',')).map(str::trim).enumerate() {
            let recipient: Recipient = one.parse().map_err(|()| self.bad_recipients(text, number + 1))?;
            if !recipients.contains(&recipient) {
                recipients.push(recipient);
            }
        }
        if recipients.is_empty() { Err(self.invalid(RECIPIENTS, text)) } else { Ok(recipients) }
    }

    fn bad_recipients(&self, text: &str, number: usize) -> Error {
        match self.invalid(RECIPIENTS, text) {
            Error::Invalid { name, value, allowed } => {
                Error::Invalid { name, value, allowed: format!("{allowed}; number {number} is none of those") }
            }
            other => other,
        }
    }

    fn identities(&self) -> Result<Vec<Identity>, Error> {
        let Some(path) = self.optional(IDENTITY_FILE, absolute)? else { return Ok(Vec::new()) };
        let text = content(&self.name(IDENTITY_FILE), &path)?;
        identities(&text).map_err(|problem| self.trouble(IDENTITY_FILE, &format!("{}: {problem}", path.display())))
    }
}

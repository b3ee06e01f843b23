//! By which ways notices go, and to whom.

use super::{Error, Values};
use crate::notify::{Address, Channels, Form, Key, Mail, Server, Trust, Webhook, recipients, sender};

impl Values {
    pub(super) fn notices(&self) -> Result<Channels, Error> {
        let trust = Trust {
            private: self.parse("notify.private", |text| text.parse().ok())?,
            authorities: self.optional("notify.ca", Trust::authorities)?,
        };
        let ping = self.optional("healthcheck_url", Address::parse)?;
        Ok(Channels { mail: self.mail()?, webhook: self.webhook()?, ping, trust })
    }

    fn mail(&self) -> Result<Option<Mail>, Error> {
        let password = self.optional("smtp.password", |text| {
            ((1..=1024).contains(&text.len()) && !text.contains(char::is_control)).then(|| text.to_owned())
        })?;
        let (from, to) = (self.optional("email.from", sender)?, self.optional("email.to", recipients)?);
        let Some(url) = self.merged.get("smtp.url") else {
            let orphan =
                ["smtp.password", "email.from", "email.to"].into_iter().find(|key| self.merged.contains_key(*key));
            let problem = "there is no mail server beside it; set BACKUP_SMTP_URL, or take this out";
            return orphan.map_or(Ok(None), |key| Err(self.trouble(key, problem)));
        };
        let server = Server::parse(url, password.as_deref()).map_err(|problem| match problem {
            None => self.invalid("smtp.url", url),
            Some(problem) => self.trouble("smtp.url", problem),
        })?;
        match (from, to) {
            (Some(from), Some(to)) => Ok(Some(Mail { server, from, to })),
            _ => {
                let problem = "a mail needs a sender and recipients; set BACKUP_EMAIL_FROM and BACKUP_EMAIL_TO";
                Err(self.trouble("smtp.url", problem))
            }
        }
    }

    fn webhook(&self) -> Result<Option<Webhook>, Error> {
        let address = self.optional("webhook.url", Address::parse)?;
        let form = self.parse("webhook.form", |word| Form::parse(word, address.as_ref()))?;
        let key = self.optional("webhook.secret", Key::parse)?;
        let Some(address) = address else {
            let problem = "there is no webhook to sign for; set BACKUP_WEBHOOK_URL, or take this out";
            return key.map_or(Ok(None), |_| Err(self.trouble("webhook.secret", problem)));
        };
        if key.is_some() && form != Form::Json {
            let problem = "ntfy, Slack and Discord check no signature; take this out, or set BACKUP_WEBHOOK_FORM=json";
            return Err(self.trouble("webhook.secret", problem));
        }
        Ok(Some(Webhook { address, form, key }))
    }
}

//! Files that variables name.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::{Error, Variable, replica};

/// A secret's file: its text without the line end that editors add.
pub(super) fn content(name: &str, path: &Path) -> Result<String, Error> {
    Ok(text(name, path)?.trim_end_matches(['\r', '\n']).to_owned())
}

/// All of its text.
pub(super) fn text(name: &str, path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|error| {
        let problem = format!("cannot read {}: {}", path.display(), remedy(&error));
        Error::Trouble { name: name.to_owned(), problem }
    })
}

/// What happened, and what to do.
fn remedy(error: &io::Error) -> String {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    match error.kind() {
        ErrorKind::NotFound => {
            "it isn't there; look at the path, and in a container whether the file, or its secret, is mounted".to_owned()
        }
        ErrorKind::PermissionDenied => format!(
            "uid {uid} (gid {gid}), as which this runs, may not; give it the file (chown {uid}, chmod 400), or run this as \
             the file's owner"
        ),
        ErrorKind::IsADirectory => {
            "it is a folder; Docker makes one where a file that is mounted isn't there: remove it, put the file in its place, \
             and start anew"
                .to_owned()
        }
        ErrorKind::InvalidData => "it isn't text in UTF-8; look whether it is the file that is meant".to_owned(),
        _ => format!("{error}; look at that disk, and whether its volume is mounted"),
    }
}

/// The file that a variable names, if what is in it may be secret.
pub(super) fn secret_file(name: &str, path: &str) -> Option<PathBuf> {
    let named = name.strip_suffix("_FILE")?;
    let is_secret =
        Variable::find(named).is_some_and(|variable| variable.secret) || named.starts_with(replica::VARIABLE);
    // That key is for anyone to see.
    (is_secret && !named.ends_with("PUBLIC_KEY")).then(|| PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let said = |path: &Path| content("BACKUP_JWT_SECRET_FILE", path).unwrap_err().to_string();
        let missing = dir.path().join("missing");
        let begins =
            format!("BACKUP_JWT_SECRET_FILE: cannot read {}: it isn't there; look at the path", missing.display());
        assert!(said(&missing).starts_with(&begins), "{}", said(&missing));
        assert!(said(dir.path()).contains("it is a folder; Docker makes one"), "{}", said(dir.path()));
        let binary = dir.path().join("binary");
        std::fs::write(&binary, [0xff, 0xfe]).unwrap();
        assert!(said(&binary).contains("it isn't text in UTF-8"), "{}", said(&binary));
        // Root may read anything.
        let refused = remedy(&ErrorKind::PermissionDenied.into());
        let uid = rustix::process::geteuid().as_raw();
        assert!(
            refused.contains(&format!("uid {uid} ")) && refused.contains(&format!("chown {uid}, chmod 400")),
            "{refused}"
        );
    }
}

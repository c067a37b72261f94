//! Secrets, fetched from where a network file says they are. What is wrong with one is told by its place, never by
//! its content.

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::PathBuf;

use secrecy::SecretString;

use crate::spec::SecretRef;

/// How much of a file is read: far more than any key, and a file that is none (a disk, a log) does no harm.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Why a secret could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The environment variable does not exist.
    #[error("the environment variable {name} is not set; {REMEDY}")]
    NotSet {
        /// The variable's name.
        name: String,
    },
    /// The environment variable or the file holds nothing but white space.
    #[error("{place} is empty; {REMEDY}")]
    Empty {
        /// `the environment variable NAME` or `the file PATH`.
        place: String,
    },
    /// The environment variable or the file holds no text.
    #[error("{place} holds no UTF-8 text; {REMEDY}")]
    NotText {
        /// `the environment variable NAME` or `the file PATH`.
        place: String,
    },
    /// The file can't be read.
    #[error("the file {path} with the key can't be read; {REMEDY}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The file is far too long for a secret.
    #[error("the file {path} is longer than {MAX_FILE_BYTES} bytes, so it can't be a key; {REMEDY}", path = .path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// The reference is neither `env:NAME` nor `file:PATH`. It is not shown: it may be the key itself.
    #[error("a key is given as `env:NAME` or `file:PATH`, never itself")]
    Form,
}

/// What to do about a secret that is not there.
const REMEDY: &str = "set it, or use --model sim to try the network without a provider";

/// Fetches the secret that `reference` names, without the white space around it. A relative path starts at the working
/// directory.
///
/// # Errors
/// The variable or file does not exist, can't be read, is empty, or is no text.
pub fn resolve(reference: &SecretRef) -> Result<SecretString, Error> {
    resolve_with(reference, |name| std::env::var_os(name))
}

fn resolve_with(reference: &SecretRef, variable: impl Fn(&str) -> Option<OsString>) -> Result<SecretString, Error> {
    if let Some(name) = reference.0.strip_prefix("env:").filter(|name| is_variable_name(name)) {
        let place = || format!("the environment variable {name}");
        let value = variable(name).ok_or_else(|| Error::NotSet { name: name.to_owned() })?;
        let value = value.into_string().map_err(|_| Error::NotText { place: place() })?;
        return trimmed(&value, place);
    }
    if let Some(path) = reference.0.strip_prefix("file:").filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        let bytes = read(&path)?;
        let place = || format!("the file {}", path.display());
        let text = String::from_utf8(bytes).map_err(|_| Error::NotText { place: place() })?;
        return trimmed(&text, place);
    }
    Err(Error::Form)
}

/// `std::env::var_os` panics on no name at all, on `=` and on NUL.
fn is_variable_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0'])
}

fn read(path: &PathBuf) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::File { path: path.clone(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Error::TooLong { path: path.clone() });
    }
    Ok(bytes)
}

fn trimmed(text: &str, place: impl Fn() -> String) -> Result<SecretString, Error> {
    match text.trim() {
        "" => Err(Error::Empty { place: place() }),
        text => Ok(SecretString::from(text)),
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn with(reference: &str, value: Option<&str>) -> Result<String, String> {
        resolve_with(&SecretRef(reference.to_owned()), |_| value.map(OsString::from))
            .map(|secret| secret.expose_secret().to_owned())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_variable_is_read_and_trimmed() {
        assert_eq!(with("env:KEY", Some(" sk-1\n")), Ok("sk-1".to_owned()));
    }

    #[test]
    fn a_missing_or_empty_variable_is_named_with_its_remedy() {
        let missing = with("env:KEY", None).unwrap_err();
        assert!(missing.contains("KEY is not set") && missing.contains("--model sim"), "{missing}");
        let empty = with("env:KEY", Some(" \n")).unwrap_err();
        assert!(empty.contains("KEY is empty") && empty.contains("--model sim"), "{empty}");
    }

    #[test]
    fn a_real_variable_is_found() {
        assert!(resolve(&SecretRef("env:CARGO_MANIFEST_DIR".to_owned())).is_ok());
        assert!(matches!(resolve(&SecretRef("env:PROVOST_NO_SUCH_KEY".to_owned())), Err(Error::NotSet { .. })));
    }

    #[test]
    fn a_file_is_read_and_trimmed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let reference = format!("file:{}", path.display());
        assert!(with(&reference, None).unwrap_err().contains("can't be read"));
        std::fs::write(&path, "  sk-2\n").unwrap();
        assert_eq!(with(&reference, None), Ok("sk-2".to_owned()));
        std::fs::write(&path, "\n").unwrap();
        assert!(with(&reference, None).unwrap_err().contains("is empty"));
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(with(&reference, None).unwrap_err().contains("no UTF-8 text"));
        std::fs::write(&path, "x".repeat(70_000)).unwrap();
        assert!(with(&reference, None).unwrap_err().contains("longer than"));
    }

    #[test]
    fn a_key_given_itself_is_refused_and_not_shown() {
        for reference in ["sk-secret", "", "env:", "file:", "env:A=sk-secret", "ENV:sk-secret"] {
            let error = with(reference, Some("value")).unwrap_err();
            assert!(!error.contains("sk-secret"), "{error}");
        }
    }
}

//! The key that checkpoints are signed with, in a file of the data directory.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use super::anchor;
use crate::journal::Error;
use crate::journal::format::{hex, unhex};

/// The key's file in the data directory: 64 hexadecimal digits.
const FILE: &str = "signing.key";

/// What a key's public half is: 32 bytes, in hex for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    pub(super) fn of(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads 64 hexadecimal digits; none if it is something else.
    pub fn parse(text: &str) -> Option<Self> {
        unhex(&text.to_ascii_lowercase()).map(Self)
    }

    /// Whether the key's owner has signed this.
    pub(super) fn has_signed(&self, bytes: &[u8], signature: &[u8; 64]) -> bool {
        let key = VerifyingKey::from_bytes(&self.0);
        key.is_ok_and(|key| key.verify_strict(bytes, &Signature::from_bytes(signature)).is_ok())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// The key itself. It is never shown, and its memory is overwritten when it is dropped.
pub(in crate::journal) struct Key(SigningKey);

impl Key {
    /// Makes the key of these bytes.
    pub(in crate::journal) fn of(secret: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&secret))
    }

    /// Reads the data directory's key, and makes one where there is none. Of several that make one at once one's is taken.
    pub(in crate::journal) fn of_directory(directory: &Path) -> Result<Self, Error> {
        let path = directory.join(FILE);
        if let Some(key) = read(&path)? {
            return Ok(key);
        }
        make(directory, &path).map_err(|source| Error::beside(&path, "written", source))?;
        let gone = || Error::beside(&path, "read", io::Error::from(ErrorKind::NotFound));
        let key = read(&path)?.ok_or_else(gone)?;
        let before = anchor::newest(directory, None).ok().flatten().map(|newest| newest.key());
        if let Some(before) = before.filter(|before| *before != key.public()) {
            tracing::warn!(
                "the key {before} is gone from {}: {} signs from here on, and audit verify wants both named",
                path.display(),
                key.public()
            );
        }
        Ok(key)
    }

    /// Returns the public half of the data directory's key, if there is one.
    pub(super) fn found(directory: &Path) -> Option<PublicKey> {
        read(&directory.join(FILE)).ok().flatten().map(|key| key.public())
    }

    pub(super) fn sign(&self, bytes: &[u8]) -> [u8; 64] {
        self.0.sign(bytes).to_bytes()
    }

    /// Returns its public half.
    pub(in crate::journal) fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }
}

/// Returns the public half of a data directory's key, which is made where there is none yet. Its file is for its owner
/// only (mode 0600), and durable when this returns.
///
/// # Errors
/// The key can't be read or made, or what is in its file is no key.
pub fn public_key(directory: &Path) -> Result<PublicKey, Error> {
    Key::of_directory(directory).map(|key| key.public())
}

fn read(path: &Path) -> Result<Option<Key>, Error> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::beside(path, "read", error)),
    };
    warn_of_readers(path);
    let secret = unhex(&text.trim_end().to_ascii_lowercase());
    secret.map(|secret| Some(Key::of(secret))).ok_or_else(|| Error::beside(path, "read", "it is no key"))
}

/// Says once that others may read the key, and so sign what they like. It is used all the same: without checkpoints nothing is found.
fn warn_of_readers(path: &Path) {
    static SAID: Once = Once::new();
    let mode = fs::metadata(path).map_or(0, |found| found.permissions().mode());
    if mode & 0o077 != 0 {
        SAID.call_once(|| {
            let (mode, path) = (mode & 0o777, path.display());
            tracing::warn!("others may use {path}, whose mode is {mode:o}: chmod 600 keeps it to its owner");
        });
    }
}

/// Makes a key beside its place and links it there, so that nobody ever reads half of one.
fn make(directory: &Path, path: &Path) -> io::Result<()> {
    let mut secret = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut secret)?;
    let made = new_name(directory);
    // What a process of the same number has left.
    let _ = fs::remove_file(&made);
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&made)?;
        writeln!(file, "{}", hex(&secret))?;
        file.sync_all()?;
        match fs::hard_link(&made, path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
            _ => File::open(directory)?.sync_all(),
        }
    };
    let written = write();
    let _ = fs::remove_file(&made);
    written
}

fn new_name(directory: &Path) -> PathBuf {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    directory.join(format!("{FILE}.{}.{number}.new", std::process::id()))
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn those_who_make_the_key_at_once_get_the_same_one_and_it_is_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let start = Barrier::new(8);
        let keys: Vec<PublicKey> = std::thread::scope(|scope| {
            let make = || {
                start.wait();
                public_key(dir.path()).unwrap()
            };
            let made: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
            made.into_iter().map(|made| made.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
        let files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        assert_eq!(files[0].metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(public_key(other.path()).unwrap(), keys[0]);
    }

    #[test]
    fn a_file_that_is_no_key_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "0123").unwrap();
        let refused = public_key(dir.path()).unwrap_err().to_string();
        assert!(refused.ends_with("signing.key can't be read: it is no key"), "{refused}");
        assert_eq!(fs::read_to_string(dir.path().join(FILE)).unwrap(), "0123");
    }
}

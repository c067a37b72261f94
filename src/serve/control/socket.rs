//! The socket's file: how it comes to be, is reached and goes.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// The socket's name in the data directory.
const NAME: &str = "control.sock";

/// How long the path of a socket may be, in bytes. Linux takes 107, macOS 103.
const MAX_PATH: usize = 100;

/// A data directory, with a path to it that is short enough for the socket's address.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    short: PathBuf,
    /// Kept open where the short path leads through it.
    _open: Option<File>,
}

impl Place {
    pub(super) fn new(directory: &Path) -> io::Result<Self> {
        let path = std::path::absolute(directory)?;
        // The name that a new socket has at first is the longest one.
        if path.as_os_str().len() + NAME.len() + 16 <= MAX_PATH {
            return Ok(Self { short: path.clone(), path, _open: None });
        }
        if !cfg!(target_os = "linux") {
            let why = format!("the path {} is too long for a socket", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let open = File::open(&path)?;
        let short = PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()));
        Ok(Self { path, short, _open: Some(open) })
    }

    /// Returns the address of the socket.
    pub(super) fn address(&self) -> PathBuf {
        self.short.join(NAME)
    }
}

/// A socket on which this process listens. Its file goes when it is dropped.
#[derive(Debug)]
pub(super) struct Socket {
    place: Place,
    /// Which file it is: one that has been put in its place meanwhile is another process's.
    identity: (u64, u64),
}

impl Socket {
    /// Listens on the socket of a data directory, in the place of one that nobody listens on any more. To be called
    /// by the process that holds the store.
    pub(super) fn bind(directory: &Path) -> io::Result<(Self, UnixListener)> {
        let place = Place::new(directory)?;
        // It gets its place when it is ready: nobody finds it with other permissions, or with nobody listening.
        let name = format!("{NAME}.{}", std::process::id());
        let new = place.path.join(&name);
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(place.short.join(&name))?;
        fs::set_permissions(&new, Permissions::from_mode(0o600))?;
        fs::rename(&new, place.path.join(NAME))?;
        let file = fs::symlink_metadata(place.path.join(NAME))?;
        Ok((Self { identity: (file.dev(), file.ino()), place }, listener))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let path = self.place.path.join(NAME);
        let is_ours = fs::symlink_metadata(&path).is_ok_and(|file| (file.dev(), file.ino()) == self.identity);
        if is_ours {
            // Where it can't be removed, the next holder puts its own in its place.
            let _ = fs::remove_file(path);
        }
    }
}

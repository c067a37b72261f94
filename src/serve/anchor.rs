//! An anchor that is spoken to over HTTP: a POST of a checkpoint adds it, a GET of the same address returns those it has as
//! JSON Lines. `docs/audit.md` fixes the protocol.

use std::net::IpAddr;
use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Client, Response, Url};
use tokio::time::timeout;

use crate::journal::{Anchor, AnchorError, Target};

/// How long an anchor may take for anything but a long list: whoever closes the store may be waiting.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long it may take from one piece of its list to the next.
const BETWEEN_PIECES: Duration = Duration::from_secs(30);

/// How long all of its list may take, however steadily it comes.
const WHOLE: Duration = Duration::from_secs(300);

/// How long its list may be: the checkpoints of ten years, at one every thirty seconds.
const MAX_BYTES: u64 = 5 << 30;

/// How long a line of its list may be: a checkpoint has about 450 bytes.
const MAX_LINE_BYTES: usize = 4_096;

struct HttpAnchor {
    client: Client,
    url: Url,
}

/// Makes ready to reach an anchor by its URL. Nothing is sent yet.
///
/// # Errors
/// It is no address of HTTP, or has a password in it.
pub fn connect(url: &str) -> Result<Box<dyn Anchor>, AnchorError> {
    let unfit = |why: String| AnchorError::Unfit { target: shown(url), why };
    let parsed = Url::parse(url).map_err(|error| unfit(error.to_string()))?;
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(unfit("its address must not hold a user name or a password".to_owned()));
    }
    // Whoever installed another provider of cryptography before may keep it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut client = Client::builder()
        .user_agent(concat!("provost/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(PATIENCE);
    if is_loopback(&parsed) {
        client = client.no_proxy();
    }
    if parsed.scheme() == "http" {
        // Reading the system's certificates takes time, and fails where there are none.
        client = client.tls_certs_only([]);
    }
    let client = client.build().map_err(|error| unfit(error.to_string()))?;
    Ok(Box::new(HttpAnchor { client, url: parsed }))
}

impl HttpAnchor {
    fn failed(&self, doing: &'static str, why: impl Into<String>) -> AnchorError {
        AnchorError::Unreachable { target: shown(self.url.as_str()), doing, why: why.into() }
    }

    /// Waits for the answer to a request, and for that it is a good one.
    async fn answer(&self, doing: &'static str, request: reqwest::RequestBuilder) -> Result<Response, AnchorError> {
        let late = || self.failed(doing, format!("it does not answer within {} s", PATIENCE.as_secs()));
        let sent = timeout(PATIENCE, request.send()).await.map_err(|_| late())?;
        let response = sent.map_err(|error| self.failed(doing, reason(&error)))?;
        match response.status().is_success() {
            true => Ok(response),
            false => Err(self.failed(doing, format!("it answers {}", response.status()))),
        }
    }

    async fn post(&self, line: &str) -> Result<(), AnchorError> {
        let post = self.client.post(self.url.clone()).header(CONTENT_TYPE, "application/json");
        self.answer("written", post.body(line.to_owned())).await.map(|_| ())
    }

    async fn get(&self, each: &mut dyn FnMut(&str) -> bool) -> Result<(), AnchorError> {
        let get = self.client.get(self.url.clone()).header(ACCEPT, "application/x-ndjson");
        let mut response = self.answer("read", get).await?;
        let (mut line, mut bytes, mut is_list) = (Vec::new(), 0, false);
        loop {
            let piece = timeout(BETWEEN_PIECES, response.chunk()).await;
            let piece = piece.map_err(|_| self.failed("read", "its list does not come to an end"))?;
            let Some(piece) = piece.map_err(|error| self.failed("read", reason(&error)))? else { break };
            bytes += piece.len() as u64;
            if bytes > MAX_BYTES {
                return Err(self.failed("read", "its list does not come to an end"));
            }
            // Somebody else may answer in its place: what asks for a password on a strange network, for one.
            if let (false, Some(first)) = (is_list, piece.iter().find(|byte| !byte.is_ascii_whitespace())) {
                if *first != b'{' {
                    return Err(self.failed("read", "what it answers is no list of checkpoints"));
                }
                is_list = true;
            }
            for part in piece.split_inclusive(|byte| *byte == b'\n') {
                line.extend_from_slice(part);
                if line.pop_if(|last| *last == b'\n').is_some() {
                    if !each(&String::from_utf8_lossy(&line)) {
                        return Ok(());
                    }
                    line.clear();
                }
                if line.len() > MAX_LINE_BYTES {
                    return Err(self.failed("read", "what it answers is no list of checkpoints"));
                }
            }
        }
        // Unlike a file, a server that answers has all of its last line.
        if !line.is_empty() {
            each(&String::from_utf8_lossy(&line));
        }
        Ok(())
    }
}

impl Anchor for HttpAnchor {
    fn append(&self, line: &str) -> Result<(), AnchorError> {
        self.wait("written", PATIENCE, self.post(line))
    }

    fn lines(&self, each: &mut dyn FnMut(&str) -> bool) -> Result<(), AnchorError> {
        self.wait("read", WHOLE, self.get(each))
    }
}

impl HttpAnchor {
    /// Waits in a thread of the caller's own, which is no task of anybody's.
    fn wait<T>(
        &self,
        doing: &'static str,
        patience: Duration,
        work: impl Future<Output = Result<T, AnchorError>>,
    ) -> Result<T, AnchorError> {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let tokio = tokio.map_err(|error| self.failed(doing, error.to_string()))?;
        let late = || self.failed(doing, format!("it is not done within {} s", patience.as_secs()));
        let done = tokio.block_on(async { timeout(patience, work).await.unwrap_or_else(|_| Err(late())) });
        // The system may still look for the address, for as long as it likes.
        tokio.shutdown_background();
        done
    }
}

fn shown(url: &str) -> String {
    Target::Http(url.to_owned()).to_string()
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Returns why a connection failed: the innermost reason, without the address.
fn reason(error: &reqwest::Error) -> String {
    let mut source = std::error::Error::source(error);
    let mut said = "the connection broke off".to_owned();
    while let Some(error) = source {
        said = error.to_string();
        source = error.source();
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the system does to find an address can't be interrupted.
    #[test]
    fn what_takes_too_long_is_left_though_a_thread_hangs_in_it() {
        let url = Url::parse("http://anchor.example/").unwrap();
        let _ = rustls::crypto::ring::default_provider().install_default();
        let anchor = HttpAnchor { client: Client::builder().tls_certs_only([]).build().unwrap(), url };
        let hangs = || loop {
            std::thread::park();
        };
        let said = anchor
            .wait("read", Duration::ZERO, async move { tokio::task::spawn_blocking(hangs).await.unwrap_or(Ok(())) });
        let said = said.unwrap_err().to_string();
        assert_eq!(said, "the anchor http://anchor.example/ can't be read: it is not done within 0 s");
    }
}

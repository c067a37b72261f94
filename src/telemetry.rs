//! What Provost says about itself: its log.

use std::io::{Result, Write, stderr};

use tracing_subscriber::EnvFilter;

use crate::spec::visible;

/// The environment variable that sets what is logged, such as `debug` or `provost::runtime=trace`.
pub const LOG_VARIABLE: &str = "PROVOST_LOG";

/// Logs warnings and errors to stderr, or what [`LOG_VARIABLE`] asks for. What agents, tools and models say is never
/// logged: it belongs to the run's events. To be called once, by the process; a second call changes nothing.
pub fn log_to_stderr() {
    let filter = EnvFilter::builder()
        .with_env_var(LOG_VARIABLE)
        .with_default_directive(tracing::Level::WARN.into())
        .from_env_lossy();
    // That crate logs what models say.
    let filter = match "genai=off".parse() {
        Ok(silent) => filter.add_directive(silent),
        Err(_) => filter,
    };
    // Without colours: then nothing in a line of the log is anything but text.
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(|| Lines(stderr()));
    let _ = log.try_init();
}

/// Writes each event as one line, whatever is in its message and its fields: they can't begin another, and can't drive the
/// terminal. The subscriber writes an event in one go.
struct Lines<W>(W);

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, event: &[u8]) -> Result<usize> {
        let text = String::from_utf8_lossy(event);
        let line = visible(text.strip_suffix('\n').unwrap_or(&text));
        self.0.write_all(format!("{line}\n").as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A log that is kept.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn whatever_is_logged_is_one_line() {
        let nasty = "x\n2026-01-01T00:00:00Z ERROR provost: forged\r\u{1b}[2J\u{9b}2J\u{202e}";
        let kept = Kept::default();
        let writer = kept.clone();
        let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || Lines(writer.clone())).finish();
        tracing::subscriber::with_default(log, || {
            let span = tracing::error_span!("span", shown = %nasty, quoted = nasty);
            span.in_scope(|| tracing::error!(shown = %nasty, quoted = nasty, error = ?nasty, "{nasty}"));
            tracing::error!("the next");
        });
        let log = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        assert_eq!(log.lines().count(), 2, "{log}");
        assert!(!log.contains(|c: char| c.is_control() && c != '\n' || c == '\u{202e}'), "{log:?}");
        assert_eq!(log.matches("ERROR provost: forged").count(), 6, "{log}");
    }
}

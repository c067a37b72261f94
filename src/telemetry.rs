//! What Provost says about itself: its log.

use tracing_subscriber::EnvFilter;

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
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}

//! The log lines of the agent, for machines: `ts=... level=... msg="..."`.

use std::io::Write;

/// Writes a line of the log.
///
/// # Errors
/// Of the writer.
pub fn write_log_line(out: &mut dyn Write, record: &log::Record<'_>) -> std::io::Result<()> {
    let level = match record.level() {
        log::Level::Error => "error",
        log::Level::Warn => "warn",
        log::Level::Info => "info",
        log::Level::Debug | log::Level::Trace => "debug",
    };
    let now = jiff::Timestamp::now();
    let message = record.args().to_string();
    writeln!(out, "ts={now:.3} level={level} msg={message:?}")
}

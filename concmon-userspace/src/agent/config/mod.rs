//! The agent's configuration: flags, then the environment, then a file, then what holds without.

mod file;
mod flight;
mod otlp;
mod users;
mod values;

use std::{
    fmt,
    io::{self, Read as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use file::File;
pub(crate) use flight::Flight;
pub(crate) use otlp::{Destination, Endpoint, Otlp, Signal, Temporality};
pub(crate) use users::Account;
use users::user_id;

use super::tls::Identity;
use crate::{
    cli::{Agent, DutyCycle, Share, budget, duration},
    session::{Failure, code},
    targets::Rules,
};

/// Read where no other is named, if it is there.
pub(crate) const DEFAULT_FILE: &str = "/etc/concmon/agent.toml";
/// A configuration, or a token's file, is at most so long.
const MAX_FILE: u64 = 1 << 20;
const MAX_TOKEN: usize = 4_096;
/// Services that are told apart, at most.
const MAX_GROUPS: usize = 200;

/// Where the local socket is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Socket {
    /// In its own place, if it can be there.
    #[default]
    Default,
    At(PathBuf),
    Nowhere,
}

impl Socket {
    /// # Errors
    /// It is no absolute path.
    fn of(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::Nowhere),
            path if Path::new(path).is_absolute() => Ok(Self::At(path.into())),
            _ => Err("use a whole path, as in /run/concmon/agent.sock, or none".to_owned()),
        }
    }
}

/// How the agent runs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    pub(crate) listen: SocketAddr,
    pub(crate) socket: Socket,
    pub(crate) interval: Duration,
    pub(crate) budget_cpu: Share,
    pub(crate) budget_memory: u64,
    pub(crate) duty: DutyCycle,
    pub(crate) max_groups: usize,
    /// Requests are looked at where the kernel tells of them; `None`: as long as the budget allows.
    pub(crate) http: Option<bool>,
    pub(crate) rules: Rules,
    /// Whom the exporter runs as.
    pub(crate) exporter: Account,
    pub(crate) max_clients: usize,
    /// What who reads the metrics must show.
    pub(crate) token: Option<String>,
    /// What it shows to who reads them; `None`: it speaks HTTP without TLS.
    pub(crate) identity: Option<Identity>,
    pub(crate) otlp: Otlp,
    /// `None`: no flight recorders are kept.
    pub(crate) flight: Option<Flight>,
    /// Where it was read from.
    pub(crate) file: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9788)),
            socket: Socket::Default,
            interval: Duration::from_secs(5),
            budget_cpu: Share(0.01),
            budget_memory: 128_000_000,
            duty: DutyCycle::Auto,
            max_groups: MAX_GROUPS,
            http: None,
            rules: Rules::default(),
            exporter: Account::nobody(),
            max_clients: 64,
            token: None,
            identity: None,
            otlp: Otlp::default(),
            flight: None,
            file: None,
        }
    }
}

/// What a setting must not be.
fn wrong(place: impl fmt::Display, reason: impl fmt::Display) -> Failure {
    let text = format!("{place}: {reason}");
    Failure::new(code::USAGE, crate::escape::escape(&text).into_owned())
}

impl Config {
    /// Puts it together. `variable` reads the environment.
    ///
    /// # Errors
    /// [`Failure`], which names the flag, the variable, or the line of the file and its key.
    pub(crate) fn read(
        flags: &Agent,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Failure> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let named = flags
            .config
            .clone()
            .or_else(|| variable("CONCMON_CONFIG").map(PathBuf::from));
        let (mut config, otlp) = match named {
            Some(path) => Self::of_text(&path, &read_text(&path).map_err(|(why, _)| why)?)?,
            None => match read_text(Path::new(DEFAULT_FILE)) {
                Err((_, io::ErrorKind::NotFound)) => Default::default(),
                text => Self::of_text(Path::new(DEFAULT_FILE), &text.map_err(|(why, _)| why)?)?,
            },
        };
        config.otlp = otlp.read(variable)?;
        let mut token_file = None;
        for name in [
            "CONCMON_LISTEN",
            "CONCMON_SOCKET",
            "CONCMON_INTERVAL",
            "CONCMON_BUDGET_CPU",
            "CONCMON_BUDGET_MEMORY",
            "CONCMON_DUTY",
            "CONCMON_MAX_GROUPS",
            "CONCMON_HTTP",
            "CONCMON_TOKEN_FILE",
        ] {
            let Some(value) = variable(name) else {
                continue;
            };
            let set = match name {
                "CONCMON_LISTEN" => address(&value).map(|at| config.listen = at),
                "CONCMON_SOCKET" => Socket::of(&value).map(|socket| config.socket = socket),
                "CONCMON_INTERVAL" => duration::parse_interval(&value)
                    .map(|interval| config.interval = interval)
                    .map_err(|error| error.to_string()),
                "CONCMON_BUDGET_CPU" => budget::parse_share(&value)
                    .map(|share| config.budget_cpu = share)
                    .map_err(|error| error.to_string()),
                "CONCMON_BUDGET_MEMORY" => budget::parse_bytes(&value)
                    .map(|bytes| config.budget_memory = bytes)
                    .map_err(|error| error.to_string()),
                "CONCMON_DUTY" => budget::parse_duty(&value)
                    .map(|duty| config.duty = duty)
                    .map_err(|error| error.to_string()),
                "CONCMON_MAX_GROUPS" => groups(value.parse().map_err(|_| NOT_A_NUMBER.to_owned()))
                    .map(|count| config.max_groups = count),
                "CONCMON_HTTP" => value
                    .parse()
                    .map(|http| config.http = Some(http))
                    .map_err(|_| "use true or false".to_owned()),
                _ => {
                    token_file = Some(value);
                    Ok(())
                }
            };
            set.map_err(|reason| wrong(name, reason))?;
        }
        if let Some(path) = token_file {
            config.token = Some(token(Path::new(&path))?);
        }
        config.listen = flags.listen.unwrap_or(config.listen);
        if let Some(socket) = &flags.socket {
            config.socket = Socket::of(socket).map_err(|reason| wrong("--socket", reason))?;
        }
        config.interval = flags.interval.unwrap_or(config.interval);
        config.budget_cpu = flags.budget_cpu.unwrap_or(config.budget_cpu);
        config.budget_memory = flags.budget_memory.unwrap_or(config.budget_memory);
        config.duty = flags.duty.unwrap_or(config.duty);
        config.http = match (flags.http, flags.no_http) {
            (_, true) => Some(false),
            (true, false) => Some(true),
            (false, false) => config.http,
        };
        Ok(config)
    }

    /// Puts it together once more, to replace this one.
    ///
    /// # Errors
    /// As [`Self::read`]; also that a file is gone, whose rules would not hold any more.
    pub(crate) fn read_again(
        &self,
        flags: &Agent,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Failure> {
        let config = Self::read(flags, variable)?;
        match (&self.file, &config.file) {
            (Some(gone), None) => {
                let text = format!("{} is not there any more", gone.display());
                Err(Failure::new(
                    code::FAILURE,
                    crate::escape::escape(&text).into_owned(),
                ))
            }
            _ => Ok(config),
        }
    }

    /// Without the push, of which the environment has more to say.
    fn of_text(path: &Path, text: &str) -> Result<(Self, otlp::Table), Failure> {
        let shown = path.display();
        let File {
            listen,
            socket,
            interval,
            budget_cpu,
            budget_memory,
            duty,
            max_groups,
            http,
            exporter,
            otlp,
            flight,
            allow,
            deny,
            service,
        } = File::parse(text).map_err(|(line, reason)| wrong(format!("{shown}:{line}"), reason))?;
        let mut config = Self {
            file: Some(path.to_owned()),
            flight,
            rules: Rules {
                allow,
                deny,
                services: service,
            },
            ..Self::default()
        };
        config.listen = listen.unwrap_or(config.listen);
        config.socket = socket.unwrap_or(config.socket);
        config.interval = interval.unwrap_or(config.interval);
        config.budget_cpu = budget_cpu.unwrap_or(config.budget_cpu);
        config.budget_memory = budget_memory.unwrap_or(config.budget_memory);
        config.duty = duty.unwrap_or(config.duty);
        config.http = http.or(config.http);
        config.max_groups = max_groups.unwrap_or(config.max_groups);
        config.exporter = exporter.user.unwrap_or(config.exporter);
        config.max_clients = exporter.max_clients.unwrap_or(config.max_clients);
        if let Some(path) = exporter.token_file {
            config.token = Some(token(&path)?);
        }
        config.identity = match (exporter.certificate_file, exporter.key_file) {
            (Some(certificates), Some(key)) => Some(identity(&certificates, &key)?),
            (None, None) => None,
            (Some(_), None) => return Err(wrong(shown, "certificate_file needs a key_file")),
            (None, Some(_)) => return Err(wrong(shown, "key_file needs a certificate_file")),
        };
        Ok((config, otlp))
    }
}

const NOT_A_NUMBER: &str = "it is not a whole number";

fn address(text: &str) -> Result<SocketAddr, String> {
    let parsed = text.parse();
    parsed.map_err(|_| "use ADDR:PORT, as in 127.0.0.1:9788 or [::1]:9788".to_owned())
}

fn groups(count: Result<usize, String>) -> Result<usize, String> {
    match count? {
        count @ 1..=MAX_GROUPS => Ok(count),
        _ => Err(format!("it must be 1 to {MAX_GROUPS}")),
    }
}

fn read_text(path: &Path) -> Result<String, (Failure, io::ErrorKind)> {
    let failed = |error: io::Error| {
        let kind = match error.kind() {
            io::ErrorKind::PermissionDenied => code::PERMISSION,
            io::ErrorKind::InvalidData => code::USAGE,
            _ => code::FAILURE,
        };
        let text = format!("cannot read {}: {error}", path.display());
        let failure = Failure::new(kind, crate::escape::escape(&text).into_owned());
        (failure, error.kind())
    };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    let read = file.take(MAX_FILE + 1).read_to_string(&mut text);
    if read.map_err(failed)? as u64 > MAX_FILE {
        let failure = wrong(path.display(), "it is too long");
        return Err((failure, io::ErrorKind::InvalidData));
    }
    Ok(text)
}

/// What is served with over TLS, which is checked here.
fn identity(certificates: &Path, key: &Path) -> Result<Identity, Failure> {
    let text = |path| read_text(path).map_err(|(why, _)| why);
    let identity = Identity {
        certificates: text(certificates)?,
        key: text(key)?,
    };
    let place = || format!("{} with {}", certificates.display(), key.display());
    let checked = identity.server();
    checked.map_err(|reason| wrong(place(), reason))?;
    Ok(identity)
}

/// A token, which is the first line of a file.
fn token(path: &Path) -> Result<String, Failure> {
    let text = read_text(path).map_err(|(why, _)| why)?;
    let token = text.lines().next().unwrap_or_default().trim();
    let is_token = !token.is_empty()
        && token.len() <= MAX_TOKEN
        && token.bytes().all(|byte| byte.is_ascii_graphic());
    match is_token {
        true => Ok(token.to_owned()),
        false => Err(wrong(
            path.display(),
            "its first line is no token: signs of ASCII without blanks",
        )),
    }
}

#[cfg(test)]
mod tests;

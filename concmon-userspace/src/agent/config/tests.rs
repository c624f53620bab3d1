//! What a configuration may say, and how mistakes in it are told.

use super::*;
use crate::cli::Pattern;

fn of(text: &str) -> Result<Config, Failure> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("room");
    let flags = Agent {
        config: Some(file.path().to_owned()),
        ..Agent::default()
    };
    Config::read(&flags, |_| None).map_err(|mut failure| {
        let path = file.path().display().to_string();
        failure.message = failure.message.replace(&path, "F");
        failure
    })
}

#[test]
fn everything_that_can_be_said() {
    let token = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(token.path(), "s3cret\nrest\n").expect("room");
    let text = format!(
        r#"
listen = "[::1]:9000"
socket = "/run/a/b"
interval = "2s"
budget_cpu = "0.5%"
duty = "10%"
budget_memory = "64MB"
max_groups = 20
http = false

[exporter]
user = "1234"
max_clients = 8
token_file = "{}"

[flight]
services = ["shop"]
span = "30s"
memory = "8MB"
folder = "/var/lib/x"
folder_size = "64MB"
triggers = ["lag>200ms", "gil-contention"]

[[allow]]
command = "gunicorn"
user = "root"

[[deny]]
unit = "noisy.service"

[[service]]
service = "shop"
cgroup = "/shop.slice"

[[service]]
service = "rest"
name = "."
"#,
        token.path().display()
    );
    let config = of(&text).expect("it is right");
    assert_eq!(config.listen, "[::1]:9000".parse().expect("an address"));
    assert_eq!(config.socket, Socket::At("/run/a/b".into()));
    assert_eq!(config.interval, Duration::from_secs(2));
    assert_eq!(config.budget_cpu, Share(0.005));
    assert_eq!(config.duty, DutyCycle::Fixed(Share(0.1)));
    assert_eq!((config.max_groups, config.max_clients), (20, 8));
    assert_eq!((config.http, Config::default().http), (Some(false), None));
    assert_eq!(
        (config.exporter.user, config.token.as_deref()),
        (1234, Some("s3cret"))
    );
    let flight = config.flight.expect("it is asked for");
    assert_eq!(
        (flight.span, flight.memory),
        (Duration::from_secs(30), 8_000_000)
    );
    assert_eq!((flight.folder_size, flight.triggers.len()), (64_000_000, 2));
    assert_eq!(flight.services, ["shop"]);
    let rules = config.rules;
    assert_eq!(rules.allow.len(), 1);
    assert_eq!(rules.allow[0].user, Some(0));
    assert_eq!(
        rules.allow[0].command,
        Some(Pattern::parse("gunicorn").expect("a pattern"))
    );
    assert_eq!(rules.deny[0].unit.as_deref(), Some("noisy.service"));
    let names: Vec<&str> = rules
        .services
        .iter()
        .map(|(_, name)| name.as_str())
        .collect();
    assert_eq!(names, ["shop", "rest"]);
    assert_eq!(of("").expect("nothing").listen, Config::default().listen);
}

#[test]
fn requests_are_looked_at_unless_somebody_does_not_want_it() {
    for (flags, variable, wanted) in [
        ((false, false), None, None),
        ((false, false), Some("false"), Some(false)),
        ((true, false), Some("false"), Some(true)),
        ((false, true), Some("true"), Some(false)),
    ] {
        let flags = Agent {
            http: flags.0,
            no_http: flags.1,
            ..Agent::default()
        };
        let variable = |name: &str| {
            variable
                .filter(|_| name == "CONCMON_HTTP")
                .map(str::to_owned)
        };
        let config = Config::read(&flags, variable).expect("it is right");
        assert_eq!(config.http, wanted);
    }
}

#[test]
fn mistakes_name_their_line_and_key() {
    for (text, line, says) in [
        ("\nlisten = \"here\"\n", 2, "listen: use ADDR:PORT"),
        ("lisen = \"127.0.0.1:1\"", 1, "`lisen`"),
        ("interval = \"1ms\"", 1, "interval: at least 100ms"),
        ("interval = 5", 1, "interval: invalid type"),
        ("max_groups = 0", 1, "max_groups: it must be 1 to 200"),
        ("http = \"yes\"", 1, "http: invalid type"),
        ("max_groups = -1", 1, "max_groups: it is not a whole number"),
        (
            "[exporter]\nuser = \"no-such-user\"",
            2,
            "user: there is no user",
        ),
        (
            "[exporter]\nuser = \"0\"",
            2,
            "user: the exporter must not run as root",
        ),
        (
            "[exporter]\nuser = \"4294967295\"",
            2,
            "user: `4294967295` is no user",
        ),
        ("[exporter]\nport = 1", 2, "`port`"),
        ("[[allow]]\ncommand = \"(\"\n", 2, "command: "),
        ("\n[[deny]]\n", 2, "a rule needs one of"),
        ("[[service]]\nname = \"x\"\n", 1, "`service`"),
        (
            "[[service]]\nservice = \" \"\nname = \"x\"\n",
            1,
            "a service needs a name",
        ),
        ("listen = [", 1, "listen: "),
        ("[otlp]\nendpoint = \"here\"", 2, "endpoint: use http://"),
        ("[otlp]\n\ntimeout = 5", 3, "timeout: invalid type"),
        (
            "[otlp]\ntemporality = \"both\"",
            2,
            "temporality: unknown variant",
        ),
        ("[otlp]\nheaders = { \"a b\" = \"c\" }", 2, "no header"),
        ("[otlp]\nport = 1", 2, "`port`"),
    ] {
        let failure = of(text).expect_err(text);
        assert_eq!(failure.code, code::USAGE, "{text}");
        let begin = format!("F:{line}: ");
        assert!(failure.message.starts_with(&begin), "{text}: {failure}");
        assert!(failure.message.contains(says), "{text}: {failure}");
    }
}

/// Whatever is wrong with headers, what they are is not told.
#[test]
fn mistakes_tell_no_secrets() {
    for text in [
        "[otlp]\nheaders = \"api-key=SECRET\"",
        "[otlp]\nheaders = [\"SECRET\"]",
        "[otlp]\nheaders = { api-key = 5318008 }",
        "[otlp.headers]\napi-key = 5318008",
        "[otlp]\nheaders = { \"Authorization: SECRET\" = \"x\" }",
        "[otlp.headers]\n\"Authorization: Bearer SECRET==\"\n",
        "[otlp.headers]\nSECRET\n",
        "[otlp.headers]\nAuthorization = \"Bearer\nSECRET\"\n",
        "[otlp.headers]\nAuthorization = Bearer SECRET\n",
    ] {
        let failure = of(text).expect_err(text);
        let told = ["SECRET", "5318008"].map(|secret| failure.message.contains(secret));
        assert_eq!(told, [false, false], "{text}: {failure}");
    }
}

#[test]
fn flags_go_before_variables_and_these_before_the_file() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(
        file.path(),
        "listen = \"127.0.0.1:1\"\ninterval = \"1s\"\nmax_groups = 3",
    )
    .expect("room");
    let path = file.path().to_string_lossy().into_owned();
    let variables = |name: &str| match name {
        "CONCMON_CONFIG" => Some(path.clone()),
        "CONCMON_LISTEN" => Some("127.0.0.1:2".to_owned()),
        "CONCMON_INTERVAL" => Some("2s".to_owned()),
        _ => None,
    };
    let flags = Agent {
        listen: "127.0.0.1:3".parse().ok(),
        ..Agent::default()
    };
    let config = Config::read(&flags, variables).expect("it is right");
    assert_eq!(config.listen.port(), 3);
    assert_eq!(config.interval, Duration::from_secs(2));
    assert_eq!(config.max_groups, 3);
    let wrong = |name: &str| (name == "CONCMON_LISTEN").then(|| "x".to_owned());
    let failure = Config::read(&Agent::default(), wrong).expect_err("no address");
    assert!(failure.message.starts_with("CONCMON_LISTEN: "), "{failure}");
    let missing = Agent {
        config: Some("/no/such/file".into()),
        ..Agent::default()
    };
    let failure = Config::read(&missing, |_| None).expect_err("no file");
    assert_eq!(failure.code, code::FAILURE);
}

/// What it allowed and denied would not hold any more.
#[test]
fn a_file_that_is_gone_does_not_open_everything() {
    let before = of("[[deny]]\nname = \"secret\"").expect("it is right");
    let failure = before.read_again(&Agent::default(), |_| None);
    // Here, too, nobody has installed one.
    if !Path::new(DEFAULT_FILE).exists() {
        let failure = failure.expect_err("it is gone");
        assert!(failure.message.contains("not there any more"), "{failure}");
    }
    let again = Config::default().read_again(&Agent::default(), |_| None);
    assert!(again.is_ok(), "there was none");
}

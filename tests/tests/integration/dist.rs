//! What is shipped to deploy the agent (`concmon-userspace/dist`): it fits what the agent serves, and passes the
//! checks of what it is for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use concmon_tests::agent::Agent;
use concmon_tests::harness::quiet;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::needs::Need;
use concmon_tests::packages;
use concmon_tests::prometheus::Prometheus;
use concmon_tests::watch::binary;
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;
use serde_json::Value;

use crate::agent::{GRANT, config};
use crate::throttling::Limited;
use crate::{WATCH, watch_python};

/// How long until each query gives something.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn trials() -> Vec<Trial> {
    let [root, ebpf, python] = watch_python("3.13");
    let prometheus = Need::Tool("prometheus");
    let promtool = Need::Tool("promtool");
    vec![
        quiet("dist::names_are_served", &WATCH, names_are_served),
        quiet("dist::rules_do_what_they_say", &[promtool], rules),
        quiet(
            "dist::queries_give_data",
            &[root, ebpf, python, prometheus],
            queries_give_data,
        ),
        quiet(
            "dist::systemd_takes_the_unit",
            &[Need::Tool("systemd-analyze")],
            unit,
        ),
        quiet("dist::configuration_is_right", &[], configuration),
        quiet(
            "dist::deb_comes_and_goes",
            &[
                root,
                Need::Tool("cargo-deb"),
                Need::Tool("dpkg"),
                Need::Tool("unshare"),
            ],
            deb,
        ),
        quiet(
            "dist::rpm_has_it_all",
            &[Need::Tool("cargo-generate-rpm"), Need::Tool("rpm")],
            rpm,
        ),
        quiet(
            "dist::image_runs",
            &[root, ebpf, Need::Tool("buildah"), Need::Tool("unshare")],
            image,
        ),
        quiet("dist::chart", &[Need::Python("3.13")], chart),
    ]
}

fn dist(path: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.join("../concmon-userspace/dist").join(path)
}

fn text(path: &str) -> Result<String> {
    std::fs::read_to_string(dist(path)).with_context(|| path.to_owned())
}

/// A command that must succeed.
fn passes(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(said)
}

/// What the lines of a file of rules with this key say.
fn values<'a>(rules: &'a str, key: &str) -> Vec<&'a str> {
    let lines = rules
        .lines()
        .map(|line| line.trim().trim_start_matches("- "));
    lines
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
        .collect()
}

/// The queries of the dashboard, as Grafana would send them for all services and hosts.
fn queries(dashboard: &str) -> Result<Vec<String>> {
    let dashboard: Value = serde_json::from_str(dashboard)?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    let targets = panels
        .iter()
        .filter_map(|panel| panel["targets"].as_array());
    let queries = targets.flatten().map(|target| {
        let query = target["expr"].as_str().context("no query")?;
        let query = query.replace("$service", ".*").replace("$instance", ".*");
        let query = query.replace("$__rate_interval", "5s");
        ensure!(!query.contains('$'), "{query} has an unknown variable");
        Ok(query)
    });
    queries.collect()
}

/// The names of metrics in a query: words outside of labels, strings and times, but functions and operators.
fn names(query: &str) -> BTreeSet<String> {
    let mut rest = String::new();
    let (mut string, mut inside) = (false, 0);
    for c in query.chars() {
        match c {
            '"' => string = !string,
            _ if string => {}
            '{' | '[' => inside += 1,
            '}' | ']' => inside -= 1,
            _ if inside == 0 => rest.push(c),
            _ => {}
        }
    }
    // Lists of labels.
    for keyword in ["by", "without", "on"] {
        let begin = format!("{keyword} (");
        while let Some(at) = rest.find(&begin) {
            let end = rest[at..].find(')').map_or(rest.len(), |end| at + end + 1);
            rest.replace_range(at..end, " ");
        }
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut found = BTreeSet::new();
    while let Some(at) = rest.find(|c: char| c.is_ascii_alphabetic()) {
        let word = rest[at..].split(|c| !is_name(c)).next().unwrap_or_default();
        let after = &rest[at + word.len()..];
        let is_operator = ["and", "or", "unless"].contains(&word);
        if !after.trim_start().starts_with('(') && !is_operator {
            found.insert(word.to_owned());
        }
        rest = after.to_owned();
    }
    found
}

/// The names of samples that a text declares.
fn declared(metrics: &str) -> BTreeSet<String> {
    let types = metrics.lines().filter_map(|line| {
        let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
        Some((name, kind))
    });
    let samples = types.flat_map(|(name, kind)| {
        let suffixes: &[&str] = match kind {
            // Without one: native ones.
            "histogram" => &["", "_bucket", "_sum", "_count"],
            _ => &[""],
        };
        suffixes.iter().map(move |suffix| format!("{name}{suffix}"))
    });
    samples.collect()
}

/// Rules and dashboard name what the agent declares, or what rules record.
fn names_are_served() -> Result<()> {
    let agent = Agent::start(&config("no program has this name"), &[])?;
    let served = declared(&agent.metrics_with("ready", |metrics| metrics.contains("# TYPE"))?);
    ensure!(served.len() > 50, "{served:?}");
    let rules = text("prometheus/rules.yml")?;
    let recorded: BTreeSet<String> = values(&rules, "record")
        .into_iter()
        .map(str::to_owned)
        .collect();
    let expressions = values(&rules, "expr").into_iter().map(str::to_owned);
    let queries = queries(&text("grafana/concmon.json")?)?;
    let mut count = 0;
    for expression in expressions.chain(queries) {
        let names = names(&expression);
        ensure!(!names.is_empty(), "no metric in {expression}");
        for name in names {
            let is_known = served.contains(&name) || recorded.contains(&name) || name == "up";
            ensure!(
                is_known,
                "the agent does not serve {name}, which is in {expression}"
            );
        }
        count += 1;
    }
    ensure!(count > 60, "only {count} queries were found");
    Ok(())
}

fn rules() -> Result<()> {
    passes(
        Command::new("promtool")
            .args(["check", "rules"])
            .arg(dist("prometheus/rules.yml")),
    )?;
    passes(
        Command::new("promtool")
            .args(["test", "rules"])
            .arg(dist("prometheus/tests.yml")),
    )?;
    let tests = text("prometheus/tests.yml")?;
    for alert in values(&text("prometheus/rules.yml")?, "alert") {
        let is_tested = values(&tests, "alertname").contains(&alert);
        ensure!(is_tested, "{alert} has no test");
    }
    Ok(())
}

/// Of a CPU, in each tenth of a second, µs: a service that keeps its GIL busy takes a little more.
const QUOTA_US: u64 = 80_000;

/// A real Prometheus takes every query of the dashboard, and has an answer to it; and evaluates every rule.
fn queries_give_data() -> Result<()> {
    let python = Interpreter::find("3.13")?;
    let limited = Limited::new("dist", QUOTA_US)?;
    let service = Workload::start(&python, "everyday.py", &[])?;
    limited.write("cgroup.procs", service.pid())?;
    // Nobody takes what is pushed there, which counts as well.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let push = format!("[otlp]\nendpoint = \"http://{nobody}\"\ninterval = \"1s\"\n[[allow]]");
    let config = config(service.program()).replacen("[[allow]]", &push, 1);
    let agent = Agent::start(&config, &[])?;
    let prometheus = Prometheus::start(agent.address(), &dist("prometheus/rules.yml"))?;
    let mut silent = queries(&text("grafana/concmon.json")?)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut still = Vec::new();
        for query in silent {
            if prometheus.query(&query)?.is_empty() {
                still.push(query);
            }
        }
        silent = still;
        if silent.is_empty() {
            break;
        }
        if Instant::now() > deadline {
            bail!("no data for {silent:?}: {}", agent.metrics()?);
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    let rules = prometheus.get("/api/v1/rules")?;
    let groups = rules["groups"].as_array().context("no groups")?;
    let rules = groups.iter().filter_map(|group| group["rules"].as_array());
    for rule in rules.flatten() {
        ensure!(rule["health"] == "ok", "{rule}");
    }
    Ok(())
}

/// The unit is right, and grants what the agent says that it needs.
fn unit() -> Result<()> {
    let unit = text("systemd/concmon-agent.service")?;
    ensure!(unit.lines().any(|line| line == GRANT), "not {GRANT}");
    let bounds = GRANT.replace("AmbientCapabilities", "CapabilityBoundingSet");
    ensure!(unit.lines().any(|line| line == bounds), "not {bounds}");
    // What it starts must be there.
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("concmon-agent.service");
    let tool = binary()?.display().to_string();
    std::fs::write(&file, unit.replace("/usr/bin/concmon-bpf", &tool))?;
    let said = passes(
        Command::new("systemd-analyze")
            .args(["--man=no", "verify"])
            .arg(&file),
    )?;
    ensure!(!said.contains("concmon-agent"), "{said}");
    Ok(())
}

fn configuration() -> Result<()> {
    is_right(&dist("systemd/agent.toml"))
}

/// The agent takes a file as its configuration.
fn is_right(file: &Path) -> Result<()> {
    let mut command = Command::new(binary()?);
    command.args(["agent", "--check-config", "--config"]);
    passes(command.arg(file)).map(drop)
}

/// Helm renders the chart to the manifest beside it, Kubernetes knows all that is in it, and the agent its
/// configuration.
fn chart() -> Result<()> {
    let python = Interpreter::find("3.13")?;
    let packages = ["helm_python_sdk", "kubernetes_validate", "pyyaml"];
    let packages = packages::folder(&python, "3.13", &packages)?;
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/chart.py");
    let mut command = python.command();
    command.arg(program).env("PYTHONPATH", packages);
    command.arg(dist("helm/concmon-agent"));
    command.arg(dist("kubernetes/concmon-agent.yaml"));
    let config = tempfile::NamedTempFile::new()?;
    std::fs::write(&config, passes(&mut command)?)?;
    is_right(config.path())
}

/// Makes a package of the binary under test.
fn package(tool: &str, args: &[&str], output: &Path) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let release = folder.path().join("release");
    std::fs::create_dir(&release)?;
    std::os::unix::fs::symlink(binary()?, release.join("concmon-bpf"))?;
    let mut command = Command::new("cargo");
    command
        .args([tool, "-p", "concmon-userspace"])
        .args(args)
        .arg("-o")
        .arg(output)
        .current_dir(dist("../.."))
        .env("CARGO_TARGET_DIR", folder.path());
    passes(&mut command).map(drop)
}

/// In a root of its own, which is this one and forgets what is written: installs the first, changes the configuration,
/// installs the second, removes it.
const INSTALL: &str = r##"
set -e
mount -t tmpfs none "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" none "$1/root"
mount -t proc none "$1/root/proc"
mkdir -p "$1/root/packages"
mount --bind "$2" "$1/root/packages"
exec chroot "$1/root" sh -ec '
dpkg --force-depends -i /packages/1.deb
id concmon
concmon-bpf agent --check-config
[ "$(systemctl is-enabled concmon-agent)" = disabled ]
systemctl enable concmon-agent
echo "# mine" >> /etc/concmon/agent.toml
dpkg --force-depends -i /packages/2.deb
[ "$(dpkg-query -Wf "\${Version}" concmon)" = 9.9.9-2 ]
[ "$(systemctl is-enabled concmon-agent)" = enabled ]
grep "^# mine" /etc/concmon/agent.toml
dpkg --purge concmon
for gone in /etc/concmon /usr/bin/concmon-bpf /usr/share/concmon /etc/systemd/system/multi-user.target.wants/concmon-agent.service; do
    [ ! -e "$gone" ] && [ ! -L "$gone" ]
done
'
"##;

/// It installs, keeps the configuration and what is enabled when a newer one comes, and leaves nothing behind.
fn deb() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let root = tempfile::tempdir()?;
    for revision in ["1", "2"] {
        let version = format!("9.9.9-{revision}");
        let args = [
            "--no-build",
            "--no-strip",
            "--fast",
            "--deb-version",
            &version,
        ];
        package("deb", &args, &folder.path().join(format!("{revision}.deb")))?;
    }
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", INSTALL, "sh"]);
    passes(command.arg(root.path()).arg(folder.path())).map(drop)
}

fn rpm() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("concmon.rpm");
    package("generate-rpm", &["--payload-compress", "none"], &file)?;
    let query = |what: &str| passes(Command::new("rpm").args(["-qp", what]).arg(&file));
    let files = query("--list")?;
    for path in [
        "/usr/bin/concmon-bpf",
        "/usr/lib/systemd/system/concmon-agent.service",
        "/usr/lib/sysusers.d/concmon.conf",
        "/etc/concmon/agent.toml",
    ] {
        ensure!(files.lines().any(|line| line == path), "no {path}: {files}");
    }
    ensure!(query("--configfiles")?.trim() == "/etc/concmon/agent.toml");
    let scripts = query("--scripts")?;
    ensure!(
        scripts.contains("systemd-sysusers concmon.conf"),
        "{scripts}"
    );
    Ok(())
}

/// Builds the image upon nothing, gives it the libraries that the base would have, and runs it in its own root.
const IMAGE: &str = r#"
set -e
store="buildah --storage-driver vfs --root $1/store --runroot $1/run"
$store build --isolation chroot --build-arg BASE=scratch -t concmon-agent -f "$2" "$1/context"
$store inspect --type image --format "{{.OCIv1.Config.Entrypoint}} {{.OCIv1.Config.Cmd}}" concmon-agent
root=$($store mount "$($store from concmon-agent)")
ldd "$root/usr/bin/concmon-bpf" | grep -o "/[^ ]*" | while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp -L "$library" "$root$library"
done
mkdir -p "$root/proc" "$root/sys" "$root/dev"
mount -t proc none "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
exec setpriv --no-new-privs --inh-caps=-all --bounding-set="-all,+sys_chroot,$3" chroot "$root" /usr/bin/concmon-bpf doctor
"#;

/// It starts the agent, and its file system has what a watch takes.
fn image() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let context = folder.path().join("context");
    std::fs::create_dir_all(context.join("target/release"))?;
    std::fs::copy(binary()?, context.join("target/release/concmon-bpf"))?;
    for license in ["LICENSE-APACHE", "LICENSE-MIT"] {
        std::fs::copy(dist("../..").join(license), context.join(license))?;
    }
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", IMAGE, "sh"]);
    command.arg(folder.path());
    command.arg(dist("container/Containerfile"));
    command.arg("+bpf,+perfmon,+sys_ptrace,+dac_read_search");
    let said = passes(&mut command)?;
    let starts = said.contains("[/usr/bin/concmon-bpf] [agent]");
    ensure!(starts, "{said}");
    Ok(())
}

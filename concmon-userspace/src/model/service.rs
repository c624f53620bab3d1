//! Which service a process is: by what it says itself, by where it runs, else by what it was started to run.

use crate::event::{PlaceFact, ProcessFact};
use crate::schema::GroupSource;

/// Programs that run an application that is named on their command line.
const LAUNCHERS: [&str; 22] = [
    "airflow",
    "arq",
    "celery",
    "daphne",
    "dask",
    "django-admin",
    "dramatiq",
    "faust",
    "fastapi",
    "flask",
    "granian",
    "gunicorn",
    "huey_consumer",
    "hypercorn",
    "jupyter",
    "manage.py",
    "prefect",
    "rq",
    "streamlit",
    "uvicorn",
    "uwsgi",
    "waitress-serve",
];
/// Names of scripts that say nothing without their folder.
const GENERIC: [&str; 8] = [
    "__main__.py",
    "app.py",
    "asgi.py",
    "main.py",
    "manage.py",
    "run.py",
    "server.py",
    "wsgi.py",
];
/// Longer names are cut.
const MAX_NAME: usize = 128;

/// What tells one service from another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Service {
    pub(super) source: GroupSource,
    pub(super) name: String,
    /// The folder: scripts of one name in two folders are two services.
    pub(super) folder: String,
}

impl Service {
    fn new(source: GroupSource, name: &str, folder: &str) -> Self {
        let name = match name.trim() {
            // OpenTelemetry calls it that.
            "" => "unknown_service",
            _ => name,
        };
        Self {
            source,
            name: name.chars().take(MAX_NAME).collect(),
            folder: folder.to_owned(),
        }
    }

    /// What nothing but the kernel's name of a process is known of.
    pub(super) fn named(name: &str) -> Self {
        Self::new(GroupSource::Tree, name, "")
    }

    /// What a rule says, else a process, or whoever has started it: by its environment, its pod, its container, its unit.
    /// What it publishes later does not count: one that was seen early would be another service than the rest.
    /// `own`: where the watch runs.
    pub(super) fn told(place: &PlaceFact, own: &PlaceFact) -> Option<Self> {
        if let Some(name) = &place.rule {
            return Some(Self::new(GroupSource::Rule, name, ""));
        }
        if let Some(name) = &place.service {
            return Some(Self::new(GroupSource::Otel, name, ""));
        }
        if let Some(name) = &place.datadog {
            return Some(Self::new(GroupSource::Datadog, name, ""));
        }
        // Names of pods are made up, one for each.
        if let Some(of) = &place.kubernetes
            && let Some(container) = &of.container
        {
            let name = format!("{}/{container}", of.namespace);
            return Some(Self::new(GroupSource::Kubernetes, &name, ""));
        }
        if let Some(id) = place.container.as_deref()
            && own.container.as_deref() != Some(id)
        {
            // As people know it: the first twelve digits.
            let is_id = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
            let short = if is_id { &id[..12] } else { id };
            return Some(Self::new(GroupSource::Container, short, ""));
        }
        let unit = place.unit.as_deref()?;
        let name = unit.strip_suffix(".service")?;
        // Of a login, everything that a user runs; of `systemd-run`, a number.
        let says_nothing = name.starts_with("user@") || name.starts_with("run-");
        let is_own = own.unit.as_deref() == Some(unit);
        (!says_nothing && !is_own).then(|| Self::new(GroupSource::Unit, name, ""))
    }

    /// What its command line says; `None`: it names no program of its own.
    pub(super) fn started(fact: &ProcessFact) -> Option<Self> {
        let folder = fact.place.folder.as_deref().unwrap_or_default();
        let script = |name: &str, folder: &str| Some(Self::new(GroupSource::Script, name, folder));
        let Some(entry) = fact.entry.as_deref() else {
            let title = fact.cmdline.first()?.strip_prefix("gunicorn: master [")?;
            let app = title.trim_end().strip_suffix(']')?;
            return script(&format!("gunicorn {app}"), folder);
        };
        if let Some(module) = entry.strip_prefix("-m ") {
            return script(&with_app(module, &fact.cmdline), folder);
        }
        if matches!(entry, "" | "-c" | "<stdin>") {
            return None;
        }
        let path = entry.trim_end_matches('/');
        let (inner, name) = path.rsplit_once('/').unwrap_or(("", path));
        let folder = match (entry.starts_with('/'), inner) {
            (true, inner) => inner.to_owned(),
            (false, "" | ".") => folder.to_owned(),
            (false, inner) => {
                let inner = inner.strip_prefix("./").unwrap_or(inner);
                format!("{}/{inner}", folder.trim_end_matches('/'))
            }
        };
        let said = with_app(name, &fact.cmdline);
        if said != name {
            // Where its own script lies is not where the application does.
            let at = fact.place.folder.as_deref().unwrap_or_default();
            return script(&said, at);
        }
        let parent = folder.rsplit('/').next().unwrap_or_default();
        match GENERIC.contains(&name) && !parent.is_empty() {
            true => script(&format!("{parent}/{name}"), &folder),
            false => script(name, &folder),
        }
    }
}

/// `gunicorn shop.wsgi`, `celery shop worker`, `uvicorn main:app`: a launcher with what it launches.
fn with_app(program: &str, cmdline: &[String]) -> String {
    if !LAUNCHERS.contains(&program) {
        return program.to_owned();
    }
    let is_program = |word: &&String| {
        let word = word.rsplit('/').next().unwrap_or(word);
        word == program || word.strip_prefix("-m").is_some_and(|rest| rest == program)
    };
    let words = cmdline.iter().position(|word| is_program(&word));
    let words = words.map_or(&[][..], |at| &cmdline[at + 1..]);
    let option = words.iter().enumerate().find_map(|(at, word)| {
        let value = word.strip_prefix("--app=");
        value.or_else(|| match word.as_str() {
            "-A" | "--app" => words.get(at + 1).map(String::as_str),
            _ => None,
        })
    });
    let spec = || {
        let is_spec = |word: &&String| {
            let (module, attribute) = word.split_once(':').unwrap_or_default();
            is_dotted(module) && is_dotted(attribute.trim_end_matches("()"))
        };
        words.iter().find(is_spec).map(String::as_str)
    };
    let command = words.first().map(String::as_str);
    let named = |word: &&str| is_dotted(word) || word.ends_with(".py");
    let app = option.or_else(spec).or(command.filter(named));
    match app {
        Some(app) => format!("{program} {app}"),
        None => program.to_owned(),
    }
}

/// `shop.wsgi`, `run-server`.
fn is_dotted(word: &str) -> bool {
    let is_part = |part: &str| {
        let starts = part.starts_with(|c: char| c.is_alphabetic() || c == '_');
        starts
            && part
                .chars()
                .all(|c| c.is_alphanumeric() || c == '_' || c == '-')
    };
    word.split('.').all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::KubernetesFact;

    const ID: &str = "4c290e9407ce1b639e5ecf689f9a52834c290e9407ce1b639e5ecf689f9a5283";

    #[test]
    fn who_says_so() {
        let place =
            |service: Option<&str>, container: Option<&str>, unit: Option<&str>| PlaceFact {
                service: service.map(str::to_owned),
                container: container.map(str::to_owned),
                unit: unit.map(str::to_owned),
                ..PlaceFact::default()
            };
        let pod = |container: Option<&str>| KubernetesFact {
            namespace: "prod".to_owned(),
            pod: "shop-1".to_owned(),
            container: container.map(str::to_owned),
            uid: String::new(),
        };
        let nowhere = PlaceFact::default();
        let unit = Some("shop.service");
        for (at, own, want) in [
            (
                place(Some("a"), Some(ID), unit),
                &nowhere,
                Some((GroupSource::Otel, "a")),
            ),
            (
                place(None, Some(ID), unit),
                &nowhere,
                Some((GroupSource::Container, &ID[..12])),
            ),
            (
                place(None, Some("web"), None),
                &nowhere,
                Some((GroupSource::Container, "web")),
            ),
            (
                place(None, None, unit),
                &nowhere,
                Some((GroupSource::Unit, "shop")),
            ),
            // A watch inside of the container does not tell by it.
            (
                place(None, Some(ID), unit),
                &place(None, Some(ID), None),
                Some((GroupSource::Unit, "shop")),
            ),
            (
                PlaceFact {
                    datadog: Some("d".to_owned()),
                    ..place(Some("a"), Some(ID), unit)
                },
                &nowhere,
                Some((GroupSource::Otel, "a")),
            ),
            (
                PlaceFact {
                    datadog: Some("d".to_owned()),
                    kubernetes: Some(pod(Some("web"))),
                    ..place(None, Some(ID), unit)
                },
                &nowhere,
                Some((GroupSource::Datadog, "d")),
            ),
            (
                PlaceFact {
                    kubernetes: Some(pod(Some("web"))),
                    ..place(None, Some(ID), unit)
                },
                &nowhere,
                Some((GroupSource::Kubernetes, "prod/web")),
            ),
            (
                PlaceFact {
                    kubernetes: Some(pod(None)),
                    ..place(None, Some(ID), unit)
                },
                &nowhere,
                Some((GroupSource::Container, &ID[..12])),
            ),
            (
                PlaceFact {
                    rule: Some("r".to_owned()),
                    ..place(Some("a"), Some(ID), unit)
                },
                &nowhere,
                Some((GroupSource::Rule, "r")),
            ),
            (place(None, None, unit), &place(None, None, unit), None),
            (place(None, None, Some("session-3.scope")), &nowhere, None),
            (place(None, None, Some("user@7.service")), &nowhere, None),
            (place(None, None, Some("run-u7.service")), &nowhere, None),
            (nowhere.clone(), &nowhere, None),
        ] {
            let told = Service::told(&at, own);
            let told = told.as_ref().map(|told| (told.source, told.name.as_str()));
            assert_eq!(told, want, "{at:?}");
        }
    }

    #[test]
    fn what_was_started() {
        for (line, want) in [
            ("python /srv/a/job.py", Some(("job.py", "/srv/a"))),
            ("python job.py", Some(("job.py", "/home"))),
            ("python ./x/job.py", Some(("job.py", "/home/x"))),
            (
                "python /srv/shop/main.py",
                Some(("shop/main.py", "/srv/shop")),
            ),
            ("python main.py", Some(("home/main.py", "/home"))),
            ("python -m http.server 80", Some(("http.server", "/home"))),
            (
                "python -m uvicorn shop.main:app --port 1",
                Some(("uvicorn shop.main:app", "/home")),
            ),
            (
                "python /v/bin/uvicorn --port 80 main:make()",
                Some(("uvicorn main:make()", "/home")),
            ),
            (
                "python /v/bin/gunicorn shop.wsgi -w 4",
                Some(("gunicorn shop.wsgi", "/home")),
            ),
            (
                "python /v/bin/gunicorn -w 4 shop.wsgi",
                Some(("gunicorn", "/v/bin")),
            ),
            (
                "python /v/bin/celery -A shop worker",
                Some(("celery shop", "/home")),
            ),
            (
                "python /v/bin/celery --app=shop worker",
                Some(("celery shop", "/home")),
            ),
            (
                "python manage.py runserver",
                Some(("manage.py runserver", "/home")),
            ),
            ("python /v/bin/tool password", Some(("tool", "/v/bin"))),
            ("python -c pass", None),
            ("python -", None),
        ] {
            let cmdline: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let fact = ProcessFact {
                entry: crate::procfs::entry::entry_of(&cmdline),
                cmdline,
                place: PlaceFact {
                    folder: Some("/home".into()),
                    ..PlaceFact::default()
                },
                ..ProcessFact::default()
            };
            let started = Service::started(&fact);
            let started = started
                .as_ref()
                .map(|of| (of.name.as_str(), of.folder.as_str()));
            assert_eq!(started, want, "{line}");
        }
        let titled = ProcessFact {
            cmdline: vec!["gunicorn: master [shop:app]".into()],
            ..ProcessFact::default()
        };
        assert_eq!(
            Service::started(&titled).expect("a name").name,
            "gunicorn shop:app"
        );
        assert!(Service::started(&ProcessFact::default()).is_none());
    }
}

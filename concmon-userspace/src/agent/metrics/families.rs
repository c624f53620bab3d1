//! The table of metric families. Their names are the standard translation of the OpenTelemetry names:
//! `concmon.loop.lag` in seconds is `concmon_loop_lag_seconds`, its attribute `concmon.kind` the label
//! `concmon_kind`.

use serde::{Deserialize, Serialize};

/// What a family is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::agent) enum Kind {
    /// Only grows; its samples end in `_total`.
    Counter,
    /// A sum that falls, too: to Prometheus a gauge.
    UpDown,
    Gauge,
    /// Always 1; its samples end in `_info`.
    Info,
    Histogram(Buckets),
}

/// The buckets of a histogram of durations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::agent) struct Buckets {
    /// Bounds of the classic ones, ns.
    pub(in crate::agent) bounds_ns: &'static [u64],
    /// They are served beside the native ones, too.
    pub(in crate::agent) both: bool,
    /// Sub-buckets of a power of two, as they are measured.
    pub(in crate::agent) sub: u64,
}

/// Histograms that the kernel programs keep.
const KERNEL: Kind = Kind::Histogram(Buckets {
    bounds_ns: &[
        100_000,
        1_000_000,
        5_000_000,
        25_000_000,
        100_000_000,
        1_000_000_000,
    ],
    both: false,
    sub: 4,
});
/// Those of loops.
const LAG: Kind = Kind::Histogram(Buckets {
    bounds_ns: LOOP_BOUNDS,
    both: true,
    sub: 16,
});
const STEP: Kind = Kind::Histogram(Buckets {
    bounds_ns: LOOP_BOUNDS,
    both: false,
    sub: 16,
});
const LOOP_BOUNDS: &[u64] = &[
    1_000_000,
    5_000_000,
    25_000_000,
    100_000_000,
    500_000_000,
    2_500_000_000,
];
/// As the conventions advise for requests.
const HTTP: Kind = Kind::Histogram(Buckets {
    bounds_ns: &[
        5_000_000,
        10_000_000,
        25_000_000,
        50_000_000,
        75_000_000,
        100_000_000,
        250_000_000,
        500_000_000,
        750_000_000,
        1_000_000_000,
        2_500_000_000,
        5_000_000_000,
        7_500_000_000,
        10_000_000_000,
    ],
    both: true,
    sub: 16,
});

/// A family.
#[derive(Clone, Copy, Debug)]
pub(in crate::agent) struct Family {
    /// Without `_total` and `_info`.
    pub(in crate::agent) name: &'static str,
    pub(in crate::agent) kind: Kind,
    pub(in crate::agent) labels: &'static [&'static str],
    pub(in crate::agent) help: &'static str,
}

impl Family {
    /// The unit that its name ends in.
    pub(in crate::agent) fn unit(&self) -> Option<&'static str> {
        let units = ["seconds", "bytes"];
        units.into_iter().find(|unit| {
            let rest = self.name.strip_suffix(unit);
            rest.is_some_and(|rest| rest.ends_with('_'))
        })
    }

    /// What the names of its samples end in.
    pub(in crate::agent) const fn suffix(&self) -> &'static str {
        match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::UpDown | Kind::Gauge | Kind::Histogram(_) => "",
        }
    }
}

macro_rules! families {
    ($($id:ident = $name:literal, $kind:expr, [$($label:literal),*], $help:literal;)+) => {
        /// A family, by its place in the table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub(in crate::agent) enum Name { $($id,)+ }

        /// All of them: each is declared, with samples or without.
        pub(in crate::agent) const FAMILIES: &[Family] = &[$(Family {
            name: $name,
            kind: $kind,
            labels: &[$($label),*],
            help: $help,
        },)+];
    };
}

use Kind::{Counter, Gauge, Info, UpDown};

families! {
    CpuTime = "concmon_cpu_time_seconds", Counter, ["service_name", "concmon_mode"],
        "CPU time of all threads, by mode; from /proc, whose clock ticks are coarse.";
    CpuThrottled = "concmon_cpu_throttled_time_seconds", Counter, ["service_name"],
        "Time that the CPU quota of the cgroup took.";
    Memory = "concmon_memory_usage_bytes", UpDown, ["service_name"],
        "Resident memory of the living processes; pages that they share count in each.";
    Processes = "concmon_processes", UpDown, ["service_name", "concmon_role"],
        "Living Python processes, by what they are for.";
    Threads = "concmon_threads", UpDown, ["service_name"],
        "Threads of the living processes.";
    OpenFds = "concmon_open_fds", UpDown, ["service_name"],
        "Open file descriptors of the living processes.";
    ProcessStarts = "concmon_process_starts", Counter, ["service_name"],
        "Processes that began while they were watched.";
    ProcessExits = "concmon_process_exits", Counter, ["service_name", "concmon_outcome"],
        "Processes that ended, by how they did.";
    ThreadStarts = "concmon_thread_starts", Counter, ["service_name"],
        "Threads that began while they were watched.";
    Switches = "concmon_context_switches", Counter, ["service_name", "concmon_type"],
        "Context switches, by the kernel's own count.";
    ThreadTime = "concmon_thread_time_seconds", Counter, ["service_name", "concmon_role", "concmon_state"],
        "Where the time of threads went; all states add up to the time that they lived.";
    WakeupLatency = "concmon_thread_wakeup_latency_seconds", KERNEL, ["service_name"],
        "From the decision to wake a thread to its being on a CPU.";
    GilWait = "concmon_gil_wait_duration_seconds", KERNEL, ["service_name"],
        "Waits for the GIL that ended, the wait for a CPU right after it included.";
    OffCpu = "concmon_thread_off_cpu_duration_seconds", KERNEL, ["service_name", "concmon_state"],
        "Waits of threads, by what they waited for.";
    GilHeld = "concmon_gil_held_time_seconds", Counter, ["service_name"],
        "Time that a GIL was held, all processes together; sampled.";
    GcCollections = "cpython_gc_collections", Counter, ["service_name", "cpython_gc_generation"],
        "Garbage collections.";
    GcCollected = "cpython_gc_collected_objects", Counter, ["service_name", "cpython_gc_generation"],
        "Objects that garbage collections freed.";
    LoopLag = "concmon_loop_lag_seconds", LAG, ["service_name", "concmon_kind"],
        "How late event loops ran what was due; sampled.";
    LoopStep = "concmon_loop_step_duration_seconds", STEP, ["service_name", "concmon_kind"],
        "How long steps of event loops took; sampled.";
    LoopTime = "concmon_loop_time_seconds", Counter, ["service_name", "concmon_state"],
        "Time of event loops, blocked in their selectors (idle) or not (busy).";
    LoopStalls = "concmon_loop_stalls", Counter, ["service_name", "concmon_cause"],
        "Steps of event loops past the threshold, by what took most of the time.";
    LoopHung = "concmon_loop_hung", Gauge, ["service_name"],
        "Event loops whose step is past the threshold, and still lasts.";
    Tasks = "concmon_tasks", UpDown, ["service_name", "concmon_state"],
        "Tasks of event loops that exist.";
    TaskStarts = "concmon_task_starts", Counter, ["service_name"],
        "Tasks that were made, as the interpreters count them.";
    TaskEnds = "concmon_task_ends", Counter, ["service_name", "concmon_outcome"],
        "Tasks that ended, by how they did; only where probes count them.";
    TaskDuration = "concmon_task_duration_seconds", STEP, ["service_name", "task_name"],
        "From the making of a task to its end, for names that are allowed.";
    ExecutorQueued = "concmon_executor_queued", UpDown, ["service_name", "concmon_kind"],
        "Work that no worker has begun.";
    ExecutorWorkers = "concmon_executor_workers", UpDown, ["service_name", "concmon_kind", "concmon_state"],
        "Workers of executors, with work (busy) or without (idle).";
    ExecutorWork = "concmon_executor_work", Counter, ["service_name", "concmon_outcome"],
        "Work of executors that ended, by how it did; only where probes count it.";
    HttpDuration = "http_server_request_duration_seconds", HTTP,
        ["service_name", "http_request_method", "url_scheme", "http_response_status_code", "error_type", "http_route"],
        "From when the head of an HTTP request had been read until the head of its response was written.";
    HttpActive = "http_server_active_requests", UpDown, ["service_name", "http_request_method", "url_scheme"],
        "HTTP requests that were read and have no response yet.";
    RequestQueue = "concmon_request_queue_duration_seconds", HTTP, ["service_name", "http_route"],
        "How long HTTP requests lay unread, the time before their connections were accepted included.";
    RequestDelay = "concmon_request_delay_time_seconds", Counter, ["service_name", "concmon_cause"],
        "Time of HTTP requests that lies in stalls of event loops (loop_blocked): unread, or under way meanwhile.";
    PeerWait = "concmon_peer_wait_time_seconds", Counter, ["service_name", "concmon_peer"],
        "Time that threads waited for others on the network.";
    FindingActive = "concmon_finding_active", Gauge, ["service_name", "concmon_rule"],
        "Processes in which a finding holds, 0 when it does not; of rules that have held once.";
    GroupInfo = "concmon_group", Info,
        ["service_name", "concmon_source", "container_id", "systemd_unit", "k8s_namespace_name", "k8s_pod_name", "k8s_container_name", "k8s_pod_uid", "service_version", "deployment_environment_name", "process_runtime_name", "process_runtime_version"],
        "What is known of a service: where its name is from, and of its first process where that runs, and in what.";
    BuildInfo = "concmon_build", Info, ["version", "architecture"],
        "The agent.";
    EventsLost = "concmon_agent_events_lost", Counter, ["concmon_source"],
        "What the agent could not take in: detail is missing then, totals are not.";
    AgentCpu = "concmon_agent_cpu_time_seconds", Counter, ["concmon_source"],
        "CPU time of the agent: of its watching process, and of its kernel programs, which is estimated.";
    AgentTargets = "concmon_agent_targets", Gauge, ["concmon_status"],
        "Python processes: watched whole (attached), by the kernel alone (unsupported); that ended in the last window before their interpreters were read (short); and processes, Python or not, that may not be read (denied).";
    AgentShed = "concmon_agent_shed", Gauge, ["concmon_detail"],
        "Whether detail of a kind is left out now to stay inside the budget; all of it, or some.";
    AgentUnobserved = "concmon_agent_unobserved_time_seconds", Counter, [],
        "Time in which threads were not looked at, as the duty cycle wants it.";
    AgentCoverage = "concmon_agent_coverage", Gauge, ["service_name", "concmon_part"],
        "The share of a service's living processes that are watched whole (processes), and of the last minute of its threads that was looked at (time).";
    AgentGroups = "concmon_agent_groups", Gauge, [],
        "Services that are told apart now.";
    AgentGroupsLimit = "concmon_agent_groups_limit", Gauge, [],
        "Services that can be told apart.";
    AgentGroupsRefused = "concmon_agent_groups_refused", Gauge, [],
        "Services that are in _OTHER for want of room, of those seen since a service went last.";
    AgentSeriesRefused = "concmon_agent_series_refused", Gauge, [],
        "Series of services that are left out, past 120 for one service, and 380 for its HTTP requests.";
    AgentWindows = "concmon_agent_windows", Counter, ["concmon_outcome"],
        "Readings of all services: handed to the exporter (sent), or dropped because it had not taken the last one.";
    ExporterRequests = "concmon_agent_requests", Counter, ["http_response_status_code"],
        "Requests that the exporter answered.";
    ExporterRefused = "concmon_agent_connections_refused", Counter, [],
        "Connections that the exporter closed at once, past the number of clients.";
    OtlpItems = "concmon_agent_otlp_items", Counter, ["concmon_signal", "concmon_outcome"],
        "Data points, log records and spans for the OTLP receiver: taken by it (sent), refused by it (rejected), or given up (dropped).";
    OtlpRequests = "concmon_agent_otlp_requests", Counter, ["concmon_signal", "concmon_outcome"],
        "Requests to the OTLP receiver: ok, to be tried again (retried), or failed for good (failed).";
    OwnCpu = "process_cpu_seconds", Counter, [],
        "CPU time of the agent's watching process.";
    OwnRss = "process_resident_memory_bytes", UpDown, [],
        "Resident memory of the agent's watching process.";
    OwnVms = "process_virtual_memory_bytes", UpDown, [],
        "Mapped memory of the agent's watching process.";
    OwnStart = "process_start_time_seconds", Gauge, [],
        "When the agent's watching process started, seconds after 1970.";
    OwnFds = "process_open_fds", UpDown, [],
        "Open file descriptors of the agent's watching process.";
    OwnMaxFds = "process_max_fds", Gauge, [],
        "How many file descriptors the agent's watching process may have open.";
}

impl Name {
    pub(in crate::agent) fn family(self) -> &'static Family {
        &FAMILIES[self as usize]
    }

    /// It is of HTTP requests.
    pub(super) const fn is_of_http(self) -> bool {
        matches!(
            self,
            Self::HttpDuration
                | Self::HttpActive
                | Self::RequestQueue
                | Self::RequestDelay
                | Self::PeerWait
        )
    }

    /// What OpenTelemetry calls it; `None`: nothing that could be pushed.
    pub(in crate::agent) fn otel_name(self) -> Option<String> {
        let family = self.family();
        let name = match self {
            Self::OwnCpu => "process.cpu.time",
            Self::OwnRss => "process.memory.usage",
            Self::OwnVms => "process.memory.virtual",
            Self::OwnFds => "process.unix.file_descriptor.count",
            // The resource has what infos tell, and processes of OpenTelemetry have no such metrics.
            Self::OwnStart | Self::OwnMaxFds => return None,
            _ if family.kind == Kind::Info => return None,
            _ => {
                let unit = family.unit().map_or(0, |unit| unit.len() + 1);
                return Some(dotted(&family.name[..family.name.len() - unit]));
            }
        };
        Some(name.to_owned())
    }

    /// Its unit as OpenTelemetry writes it; empty: a plain number.
    pub(in crate::agent) fn otel_unit(self) -> &'static str {
        match (self, self.family().unit()) {
            (_, Some("seconds")) => "s",
            (_, Some("bytes")) => "By",
            (Self::GcCollections, _) => "{collection}",
            (Self::GcCollected, _) => "{object}",
            (Self::HttpActive, _) => "{request}",
            (Self::LoopHung, _) => "{loop}",
            (Self::FindingActive, _) => "{finding}",
            (Self::OwnFds, _) => "{file_descriptor}",
            _ => "",
        }
    }
}

/// Names of OpenTelemetry that have underscores of their own.
const WORDS: &[&str] = &[
    "active_requests",
    "collected_objects",
    "context_switches",
    "off_cpu",
    "open_fds",
    "status_code",
];

/// The name that a name of Prometheus is the translation of.
pub(in crate::agent) fn dotted(name: &str) -> String {
    let dotted = name.replace('_', ".");
    WORDS.iter().fold(dotted, |name, word| {
        name.replace(&word.replace('_', "."), word)
    })
}

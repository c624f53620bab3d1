//! concmon: where every nanosecond of a running Python program goes, seen from outside.
//!
//! The kernel tells when each thread runs, waits for a CPU, or is blocked, and on what. Reading the
//! interpreter's memory and `/proc` tells which Python thread, event loop and task that was. Nothing
//! is injected into the target, and nothing stops it.
//!
//! # The closed ledger
//!
//! ```text
//! wall = on_cpu + runnable + Σ blocked by cause + unknown + unobserved
//! ```
//!
//! Every nanosecond of a watched thread, from attach or birth to the read or its end, is in exactly
//! one column. The columns live in kernel maps: what is lost is detail, never time.
//!
//! - Boundaries are instants of `CLOCK_MONOTONIC`, shared by the two columns that they part.
//! - On-CPU time is the kernel's own growth of `sum_exec_runtime`. The kernel takes its instants a
//!   little before its tracepoints take ours. Where its account exceeds the stretch between our two
//!   instants, the boundary moves forward, at the expense of the wait after it. Where it falls short
//!   (hypervisor steal, interrupts), the rest is `stolen`, contained in `runnable`. So nothing that was
//!   booked is ever taken back.
//! - A reading ends with an open stretch, which goes to the column of the thread's state. That is
//!   provisional: a part of a running stretch may turn out to be stolen. Reported values never fall all
//!   the same: columns that grew meanwhile, stolen time first, pay for the correction
//!   (`model/projection.rs`), until the account has caught up with what was shown.
//! - The instant of a wakeup is taken in `sched_waking`, in the waker's context: wakeup latency counts
//!   from the decision to wake.
//! - Some switches are not told by any tracepoint; they are missing in the kernel's own trace, too. They
//!   are reconstructed from the thread's own CPU clock and switch counters, and counted as
//!   `switch-unseen`. Counts of voluntary and involuntary switches are always the kernel's.
//! - Room for accounts grows with the threads: they lie in chunks, which user space adds before they are
//!   needed and takes away once they are empty (`source/live/chunks.rs`); a thread of its own waits for the kernel then. Histograms are apart from the
//!   columns, and are given to a thread with its first switch; where more threads begin at once than there
//!   is room ready for, they begin later, and say since when. When the accounts are read, histograms of
//!   those that have not moved are left out.
//! - A sequence count shows torn reads, which are repeated. An account that two writers broke for good
//!   is healed in the copy that is read; what is missing there is `unknown`, which is otherwise 0.
//!
//! With the agent's duty cycle (`session/duty.rs`), the hooks of switches are attached for a part of the time. Accounts stand
//! still in between; at the end of each window a walk of all tasks brings them up to date (`bridge` in
//! `concmon-ebpf/src/ledger/life.rs`): the open stretch up to when the hooks went, the rest as `unobserved`, of which the
//! kernel's own account says how much was on a CPU. A last walk comes right before they are attached again. So nothing that reads
//! accounts has to know, but for what concludes from an account that does not move. Births and ends are always told.
//!
//! One level up, the wall of a loop, while somebody looked, is *idle* (its thread blocked in the selector) + *busy* (all else).
//!
//! # The GIL
//!
//! How long threads waited for the GIL in a window is what their accounts have as blocked on it. Waits, which end
//! with the runnable time directly after that, come from slices.
//! Each is charged to whoever held the GIL meanwhile. That is inferred: while somebody waits, whoever
//! drops the GIL wakes a waiter or waits for the next holder itself, and both show in slices
//! (`model/gil`). What nobody is known to have held it is charged to nobody, mostly the hand-over. How
//! much of the time it is held is sampled (`python/gil_sampler.rs`).
//!
//! # The time of event loops
//!
//! A loop's thread is idle while it is blocked in the loop's selector; slices tell when, exactly. What lies
//! between two idle times is a busy stretch. Samples are stacks that the kernel program walks, by the clock
//! (99 Hz) and when a thread blocks, rationed by a token bucket per thread and cause, so that who blocks
//! seldom for a cause gives a stack each time, whatever else it waits for. A wait that gave none, because it
//! began before the watch, has the stack of a look that met it. A sample has the version of the thread's
//! current context: loops enter a context for each step, so equal versions mean the same step, and half of
//! the growth is the number of steps. A step that enters contexts by itself is known by its place in the loop's
//! turn. A sample also tells of the loop's turns, for a loop that goes round without
//! waiting has no idle time: asyncio's and trio's functions have the time when the turn began in a local
//! variable, libuv counts the turns of uvloop. Turns that no sample has met are spread over the busy time between two
//! samples, as many as these tell (`model/timing/turns.rs`).
//!
//! - *Exact*, from slices: idle and busy, and what a stall's time was spent on.
//! - *Estimated*, from samples, and marked so: whose the busy time was (tasks, callbacks and unknown sum to
//!   it), lag, the lengths of steps, the ends of a step in the middle of a busy stretch.
//! - A *stall* is a step longer than the threshold. It takes samples that show the same step, or a block,
//!   which is one step's by itself; else a long stretch is saturation, which has no culprit.
//! - A step that lasts is read while it does (`python/unwind`): its task, its context variables, its stack, and what
//!   waits meanwhile, so that a stall names the request.
//! - A *hang* is a step that has passed the threshold and has not ended. An eye on each loop's thread sees by its
//!   account when it is busy or blocked past the threshold, whatever samples say (`targets/eye.rs`), and owes a look
//!   then, another one 0.6 s later, for text tells only what still lasts then, and once a second while it lasts. From looks alone the model concludes hangs (`model/timing/hang.rs`), so that
//!   a replay does as well; what waits for one counts in lag with its age so far. When it ends it is one stall.
//!
//! `model/timing` goes through a thread's slices and samples in order of time (`busy_tracker.rs`), and settles at
//! ticks what has become certain. Rules (`findings`) judge snapshots, not events.
//!
//! # HTTP requests
//!
//! Where the kernel has the tracepoints for it, and unless it is switched off (`--no-http`), kernel programs at sockets see
//! where requests and responses begin, and hand over up to 1 KiB of each head (`concmon-ebpf/src/sockets.rs`). A socket is
//! known by its cookie, which no other one ever has, from its first bytes on: on a port that a watched process serves, when
//! they become readable, which may be long before anybody accepts the connection. From first readable byte to read a request
//! has *lain unread*; from its whole head read to the head of its response written is its *duration*. Records are put in the
//! order of time first, then assembled to requests with their responses (`decode/http.rs`): bodies are passed over by their
//! length or their chunks, so what lies in one is taken for no head. Only what was concluded goes on to the model and into
//! captures; bytes of heads stay behind.
//!
//! A loop that stands still keeps requests waiting that its thread reads: those that lay unread and those that were under
//! way meanwhile, but for the one that the step was for (`model/http/past.rs`). Routes are the application's own table,
//! read from memory by looks (`python/walk/routes`), which bring those of all frameworks to one form: expressions in the order
//! in which they are tried. A path whose identifiers were folded before (`event/paths.rs`) stands for many, so an expression
//! takes all of these, none, or some (`event/patterns.rs`); where more than one route may be meant, none is told
//! (`model/http/routes.rs`). Only routes leave a process's own rows: sums of services have no path.
//!
//! At connections that watched processes make, the same programs tell whom a thread has waited for (`model/peers.rs`): when it
//! reads or writes, its last wait is looked at, which was for this peer if it was in a system call on the same descriptor since
//! the connection was used last, or in `poll` behind the thread's own write. The wait of an event loop is for all of its
//! sockets, and so for no peer.
//!
//! # Services
//!
//! At the end of each window, what a process has added in it to any family of sums is one *delta*: fields that are
//! sums, or the worst few under a total order (`model/delta.rs`). An accumulator adds deltas by key, and a process's
//! state may go then: the sums of its *group*, the processes that one service is, stay and never fall. Which group
//! a process belongs to is decided once for each program that it runs (`model/groups.rs`): by what it says of itself
//! (`OTEL_SERVICE_NAME`), by its container, its unit, by the script or module that it runs (`model/service.rs`); what
//! is forked belongs to its parent's. Until it is decided, what it adds is kept, and goes to the group then. Rows that
//! are folded away go to an ancestor of the same group, else to the group itself.
//!
//! # The agent
//!
//! ```text
//! collector: watch ─ window ─> sums of services ─> samples ─┬─ socket ─> exporter: text · OpenMetrics · protobuf ─> HTTP
//! configuration ─ rules ─> selector, names of services      ├─ settings      └─> OTLP ─> receivers
//!                              stalls, hangs, findings ─────┘ events             ^ connections: dialer
//! ```
//!
//! Two processes (`agent`), and a third where it pushes. The collector is a watch of everybody whose windows become
//! samples: a pure step from the sums of services, and what is remembered between two windows is in one place
//! (`agent/metrics/collect.rs`). It keeps sums only, and forgets a service, and whatever of its processes is left, when
//! that has had none for long. The exporter is forked while there is one thread, has no capability and few system calls,
//! and is never waited for: what it has not taken is replaced by what is newer; of events a number waits. What it pushes
//! (`agent/exporter/push.rs`) goes over connections that the dialer hands to it, for it may connect nowhere itself. Rules
//! are judged where processes are (`targets/rules.rs`): who is watched when it comes, and what its service is called is a
//! fact of the process.
//!
//! What its owner asks on the local socket, and with a token by way of the exporter, the collector answers itself
//! (`agent/debug.rs`). A profile is a recording of one service, a *tap* on the inputs of the watch (`session/taps.rs`) that has
//! only what is about that service's processes (`capture/part.rs`), replayed by a thread and made to time by stack as `export`
//! does; so its sums are those of the accounts. It begins and ends with a window. A flight recorder of a service is the same
//! tap on a ring (`agent/recorders.rs`). Where there are taps, accounts of their processes are read whole, moved or not.
//!
//! # Data flow: one direction
//!
//! ```text
//! kernel programs ─┬─ batches ────────────────────────┐
//!                  ├─ sockets ─> order ─> requests ───┤
//!                  └─ stacks ─> python ─ samples ─────┤
//! ledgers ─ mapped memory ────> decode ─ facts ───────┤
//! interpreter memory ─────────> python ─ facts ───────┼─ inputs ─┬───────────> pipeline ─> Snapshot ─> views
//! /proc ──────────────────────> procfs ─ facts ───────┤          ├─> capture      ^
//! clock ─────────────────────────────── ticks ────────┘          └─────│──────────┘ replay
//!
//! pipeline: batches ─> decode ─┬─ slices, samples ─> order ─┐
//!                              └─ births, ends ─────────────┼─> model.apply(&Event) ─> Snapshot ─> findings
//!                              facts, ticks ────────────────┘
//! ```
//!
//! Slices of several CPUs are put in order within a horizon of 400 ms. Births and ends do not wait, for
//! what is read next is about them. A tick ends a window: the ledgers are read, in one place, then applied
//! together with what was read of processes meanwhile. What the pipeline comes to on the way is one typed output
//! (`source::pipeline::Output`): what has become of processes, stalls, windows.
//!
//! # The life of a target, and when it is read
//!
//! `targets` has one home for each watched process, by id and start time: *found* by name, by a fork, or by a
//! sweep; *attached* to its interpreter, which is searched for at growing pauses; *walkable* once the kernel side
//! knows where its frames are; *probed* where that was asked for; and gone with its last exit. A program that begins
//! under watch is looked at as soon as it has a GIL, and again at growing pauses, for it may end before a window does;
//! what that says is told at once. Whatever happens to a
//! process is told to the registry in one place, and a process that has ended leaves nothing behind but its last
//! counts, until they are read.
//!
//! Who is wanted for what it is (`targets/selector.rs`: command line, cgroups, ancestors) is met before it is
//! watched: a process that execs, as a queue of the kernel side tells, or that a sweep finds, is judged, its
//! interpreter is searched for by the worker, and only then it has accounts (`session/watch/newcomers.rs`). The filter
//! of the hooks is the kernel's thread id; all other ids that the kernel side hands out are those of the tool's own PID
//! namespace, read when a thread is born.
//!
//! Readings of a window begin shortly before its end (`session/schedule.rs`): as long before as the last ones took
//! twice, a few processes at a time, with what arrives in between, who has a long step first. A process is read
//! again only when one of its ledgers has moved since it was read last: if none of its threads ran, what was read
//! still holds, and is given out as of now. What others can change of what `/proc` says is read
//! again all the same, after ten seconds at first, and less and less often while the process rests. A process of which no account has moved since the last window is told to
//! the model in one word (`Event::Still`); a capture, which may begin with any of its windows, has all readings. Its row need
//! not be made anew: the agent gives its windows back, and what stands still since before a window has the row of the last one,
//! with longer waits (`model/standing.rs`). `/proc` is scanned as a whole when
//! somebody has come or gone, and every ten seconds; of those that have not run since, only whether they are there. Interpreters are searched for and looked at by a thread of
//! their own, one look at a time, under one budget: the scanner is lent to it, while samples go on being resolved.
//! How long the turns of the select loop take is in every report (`monitor.passes`).
//!
//! # Floors
//!
//! Imports run downwards only.
//!
//! ```text
//! main
//! commands
//! agent
//! session
//! targets · views
//! source
//! findings · capture
//! python
//! decode
//! model
//! schema
//! kernel
//! procfs
//! event
//! concmon-ebpf's library (wire) · cli · escape
//! ```
//!
//! `source`, `python`, `procfs` and `kernel` bring things in, `decode` and `model` say what they mean,
//! `views` show them. `targets` (one process) and `session` (all of them) are where these meet.
//!
//! - **Kernel programs** (`concmon-ebpf`, built apart and embedded as an object): keep the ledgers and
//!   send records. They know no system call by number and no struct offset. Of Python they know what user
//!   space hands over: addresses of GILs, and where frames are, by which they walk stacks.
//! - **Wire** (`concmon_ebpf`): the records and map values of both sides, one file each. A record's head says
//!   what the rest of it is. No dependency, no I/O.
//! - [`kernel`]: struct offsets from BTF, the table of what system calls mean, the table of what not every
//!   kernel has and what is said without it, the comparison of the self-test. It loads nothing.
//! - [`event`]: every input of a watch as one typed enum.
//! - [`escape`]: texts of a target, fit for a terminal.
//! - [`decode`]: bytes to events, total. Damage is an error or a count, never a panic.
//! - [`procfs`]: all reading of `/proc`: bounded looks through a handle that is bound to the process, which
//!   keep what seldom changes; mappings, ids, capabilities; also the clocks.
//! - [`python`]: finds interpreters and scans them through one memory trait. `layout` is data; on `memory`
//!   stand `objects` (what is where in one), on those `walk` (threads, loops, tasks, pools), then `detect` and
//!   `attached`, on that what is made of an interpreter: `scan`, `unwind` (what kernel programs walk stacks by)
//!   and `probes`; `interpreter` is the door. It writes nothing and attaches to nothing: reads are
//!   `process_vm_readv`, torn ones are seen and repeated or counted. What one scan reads and keeps is bounded,
//!   and so is its time: it asks before each read whether it is over, and keeps what it has, marked as cut.
//!   Walkers are tested and fuzzed on recorded images of memory (`cargo xtask images`, `cargo xtask fuzz`).
//!   What records, replays and fuzzes is behind the feature `developer`, which tests and examples have by
//!   way of the package's development dependency on itself, and nothing that ships.
//! - [`model`]: identity, windows, sums, retention. No clock, no file, no process, no view, no failure.
//! - [`schema`]: the lines of `concmon/1`, field by field, and their JSON Schema. The model fills them in, and
//!   views print them: what is not in them, no view can say.
//! - [`capture`]: the inputs of a watch in a file, in the order of their arrival: written, read, and
//!   after damage recovered.
//! - [`source`]: loads and attaches the kernel programs, maps the ledgers, drains the buffers; feeds
//!   inputs, live ones or those of a capture, through one pipeline.
//! - [`findings`]: rules on snapshots, each with evidence, advice and an explanation; what they keep of windows
//!   before is bounded.
//! - [`views`]: live view, report lines, summary, dump, task trees, JSON, one-file page, exports, diff.
//!   They see snapshots, dumps and intervals (`model/intervals`: the same events cut into stretches for
//!   what has a time axis), never an event.
//! - `targets`: what is known, done and refused of each watched process, in one place, and the thread that looks.
//! - [`session`]: the one select loop, the order in which things are read, exit codes. A single look
//!   (`dump`, `tasks`) takes a way of its own, without kernel programs and without the model's state:
//!   `/proc` and [`python`], then `model::dump`, then a view.
//! - `agent`: the daemon: its configuration, its samples and their formats, and the process that serves them.
//! - [`commands`]: what the command line can ask for, one file each. `doctor` does what a watch would do, up to
//!   its hooks, and tells of that instead.
//!
//! # How a thread's account is found
//!
//! One memory-mapped array has a slot number for every thread id; 0 is none. So one plain load tells the
//! hooks whether a thread is watched: it is the filter, and costs others next to nothing. The slot is an
//! index into another mapped array, of ledgers, which user space reads in place, without a system call
//! per thread. (Task storage was measured, too: 80 ns more per switch of anybody's thread, and it needs
//! a fallback before Linux 5.11.) A dead thread's account stays, marked, until user space has collected
//! it; where slots run short it is folded into a sum of its process, and that is counted.
//!
//! # Exact counts
//!
//! On request (`--exact`), probes in the watched processes count each task, and each failure in thread
//! pools. Where they go is read out of living objects (`python/probes`) and verified; without certainty
//! there are none. No return address on the target's stack is replaced: where a function ends is decoded
//! from its code, as a whole or not at all (`python/probes/returns.rs`). A probe there belongs to the call that was
//! entered with the same stack pointer, and that call's task has ended when it is not pending any more.
//! Probed functions can be preempted, so their programs write neither batches nor anything else per CPU:
//! they count in maps, where a thread has rows of its own, and which user space reads whole at each tick
//! (`source/exact.rs`).
//! A failure in a thread pool is known by the frame object its exception has passed through, which is
//! where the exception's traceback begins until somebody raises it again.
//! Nothing of it can be lost; what found no room is counted, and puts the counts in doubt.
//!
//! # Invariants
//!
//! 1. All that the model knows came through `Model::apply`. Equal events give equal snapshots, and
//!    snapshots sum to the summary.
//! 2. The model reads no clock, no file, no process, and cannot fail.
//! 3. Views see snapshots and dumps only. The model names no view.
//! 4. Each record and map value is defined once, its size asserted at compile time.
//! 5. Knowledge about Python versions is data: rows by version, replaced by the interpreter's own offset
//!    tables where it has them. Walkers match on shape, never on version. An unknown interpreter is a
//!    typed *unsupported* with a reason; the kernel columns go on.
//! 6. What system calls mean is one declarative table per architecture, handed to the kernel as a map; what
//!    matters of it later comes back in records. The model knows no number of a call.
//! 7. Kernel struct offsets come from the running kernel's BTF, are frozen globals, and are checked on
//!    this process itself before anything is attached. A wrong offset loads silently, hence the check.
//! 8. One object serves every kernel: what a kernel lacks is switched off by frozen flags.
//! 9. Every drop, fault, failed read and unknown record is counted by a declared reason, and shown. A
//!    `null` has its reason in the limits of its object.
//! 10. The target is never stopped, never written to, and gets no code. Only what was asked for by
//!     `--exact` traps in it. A filter of system calls enforces that from the moment a watch is attached
//!     (`session/confine.rs`), and capabilities that are not needed any more are given up
//!     (`session/privileges.rs`).
//! 11. The tool measures its own cost (CPU, memory, run time of its kernel programs) in every report.
//! 12. Processes and threads are identified by id and start time. What comes from a target is bounded,
//!     checked, and escaped before it meets a terminal, a page or an export. What is kept is bounded,
//!     and what is left out is said.
//! 13. The tool's own CPU time and memory have a budget. Past it detail is left out (samples, looks, tasks,
//!     single slices, those of event loops at last), totals never, and reports say what (`shed`). Looks take no more than their
//!     share from the first one on, and no signal waits for one.
//! 14. No map outside of `targets` is keyed by a process id of what lives, and none of what ended is kept there.
//! 15. The select loop never writes to what somebody must read: a thread does (`session/stream.rs`), what
//!     waits for it is bounded, and while there is no room, windows get longer.
//! 16. A capture holds inputs, in the order of their arrival, before any conclusion. Fed through the
//!     pipeline again they give the live watch's reports to the byte; what is missing is said.
//! 17. All files are written through `session/files`: made exclusively and relative to a folder that is
//!     open, 0600, the caller's before their first byte, renamed when whole (a recording: when it has its
//!     header). Nothing that is there is opened for writing, and only an ordinary file of the same owner
//!     is ever replaced, deleted or moved.
mod agent;
pub mod capture;
pub mod cli;
pub mod commands;
pub mod decode;
pub mod escape;
pub mod event;
pub mod findings;
pub mod kernel;
pub mod model;
pub mod procfs;
pub mod python;
pub mod schema;
pub mod session;
pub mod source;
mod targets;
#[cfg(test)]
mod testing;
pub mod views;

//! What stands under the options of `--help`.

pub(super) const EXAMPLES: &str = "\
Exit codes:
  0  ok; the target ending, or an unknown Python, is not an error
  1  failure
  2  wrong usage
  3  no such process, it is not Python, or nothing matches
  4  permission denied
  5  unsupported kernel: too old, no BTF, or the self-test failed
  6  a rule of --fail-on has held
  With -- CMD: CMD's own code, 128+N when signal N killed it, 127 when it could
  not be started.

The id of a process may stand without --pid, and a capture without -i:
concmon-bpf 4242, dump 4242, report FILE.

Keys of the live view: q quit, p pause, s S sort, / filter, Enter details,
t threads, a tasks, g GIL, f findings, c code (hot functions), + - interval, h help.

Examples:
  sudo concmon-bpf --pid 4242                live view of a running service
  sudo concmon-bpf -p 4242 -d 30s            30 seconds of it, then the summary
  sudo concmon-bpf -p 4242 --json | jq .     one JSON object per second
  sudo concmon-bpf --unit shop               a service, with workers to come
  sudo concmon-bpf --all --exclude celery    all Python of this host but some
  sudo concmon-bpf -- python app.py          start a program and watch it
  sudo concmon-bpf demo                      watch a program that misbehaves
  sudo concmon-bpf record -p 4242 -d 30s -o F    keep it in a file
  sudo concmon-bpf record -p 4242 -d 30s -f svg -o F    a flame graph in one step
  concmon-bpf report -i F                    and report from there
  concmon-bpf report -i F --html PAGE        a page to look at
  concmon-bpf export -i F -f perfetto -o T   for ui.perfetto.dev
  concmon-bpf diff BEFORE AFTER              what changed between two files
  concmon-bpf dump -p 4242                   stacks, loops, task tree: one look
  concmon-bpf tasks -p 4242 --group-by await where tasks wait, in few lines
  sudo concmon-bpf -p 4242 -d 1m --fail-on loop-blocked    a check for scripts
  sudo concmon-bpf agent                     all services of this host, for Prometheus
  concmon-bpf doctor -p 4242                 whether it would work, and what mends it
  concmon-bpf explain gil-contention         what a finding means";

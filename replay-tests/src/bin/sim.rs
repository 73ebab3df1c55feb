//! `cargo sim`: runs seeds of the simulator, and tells of the first that breaks an invariant.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use tephra_replay_tests::sim::coverage::Coverage;
use tephra_replay_tests::sim::faults::FaultKind;
use tephra_replay_tests::sim::run::run;
use tephra_replay_tests::sim::shrink::shrink;
use tephra_replay_tests::sim::trace::Keep;
use tephra_replay_tests::sim::{Plan, Report};

/// Simulates whole deployments in which everything goes wrong that can, and checks that nothing is
/// lost, stuck, drifting or orphaned. One seed is one history.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed; without it, one from the clock.
    #[arg(long)]
    start: Option<u64>,
    /// Stop after so many minutes, whatever is left.
    #[arg(long)]
    minutes: Option<f64>,
    /// Run this seed alone.
    #[arg(long, conflicts_with_all = ["seeds", "start", "minutes"])]
    seed: Option<u64>,
    /// Print what happened, line by line (with --seed).
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Operations that clients ask for in each run.
    #[arg(long, default_value_t = 300)]
    operations: usize,
    /// Operations to leave out, by number.
    #[arg(long, value_delimiter = ',')]
    skip: Vec<usize>,
    /// Kinds of fault to leave out.
    #[arg(long, value_delimiter = ',', value_parser = fault_kind)]
    without: Vec<FaultKind>,
    /// Let the log acknowledge before it has synced, and lose its end when everything goes dark.
    #[arg(long)]
    unsynced: bool,
    /// Do not look for a smaller run that fails too.
    #[arg(long)]
    no_shrink: bool,
    /// Say at the end what was reached, and what was not.
    #[arg(long)]
    coverage: bool,
    /// Fail if there is something that no run has reached.
    #[arg(long, requires = "coverage")]
    complete: bool,
    /// Seeds at a time.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
    jobs: usize,
}

fn fault_kind(word: &str) -> Result<FaultKind, String> {
    let known = || FaultKind::ALL.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", ");
    let found = FaultKind::ALL.iter().find(|kind| kind.as_str() == word);
    found.copied().ok_or_else(|| format!("no such kind of fault; there are {}", known()))
}

impl Arguments {
    fn plan(&self, seed: u64, keep: Keep) -> Plan {
        Plan {
            seed,
            operations: self.operations,
            skip: self.skip.iter().copied().collect(),
            without: self.without.iter().copied().collect(),
            unsynced: self.unsynced,
            keep,
        }
    }

    fn first_seed(&self) -> u64 {
        self.seed.or(self.start).unwrap_or_else(|| {
            let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
            now.as_secs()
        })
    }
}

/// What all seeds together came to.
#[derive(Default)]
struct Total {
    runs: u64,
    blocks: u64,
    commits: u64,
    simulated: Duration,
    coverage: Coverage,
    lost_blocks: usize,
    rebuilt_views: usize,
    failed: Option<(u64, Report)>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let first = arguments.first_seed();
    let count = if arguments.seed.is_some() { 1 } else { arguments.seeds };
    let keep = if arguments.trace { Keep::Lines } else { Keep::Nothing };
    let began = Instant::now();
    let deadline = arguments.minutes.map(|minutes| began + Duration::from_secs_f64(minutes.max(0.0) * 60.0));
    let next = AtomicU64::new(0);
    let total = Mutex::new(Total::default());
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.clamp(1, 64) {
            scope.spawn(|| {
                loop {
                    let offset = next.fetch_add(1, Ordering::Relaxed);
                    let is_over = deadline.is_some_and(|deadline| Instant::now() >= deadline);
                    if offset >= count || is_over {
                        return;
                    }
                    let seed = first.wrapping_add(offset);
                    let report = run(&arguments.plan(seed, keep));
                    let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                    if total.failed.is_some() {
                        return;
                    }
                    take_in(&mut total, seed, report);
                    if total.failed.is_some() {
                        next.store(count, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    tell(&arguments, first, &total, began.elapsed())
}

fn take_in(total: &mut Total, seed: u64, report: Report) {
    total.runs += 1;
    total.blocks += report.head.block.0;
    total.commits += report.head.position.0;
    total.simulated += report.simulated;
    total.coverage.add(&report.coverage);
    total.lost_blocks += report.lost_blocks;
    total.rebuilt_views += report.rebuilt_views;
    if report.violation.is_some() || !report.trace.is_empty() {
        total.failed = Some((seed, report));
    }
}

fn tell(arguments: &Arguments, first: u64, total: &Total, took: Duration) -> ExitCode {
    let mut out = std::io::stdout().lock();
    let mut say = |line: &str| drop(writeln!(out, "{line}"));
    if let Some((_, report)) = &total.failed {
        for line in &report.trace {
            say(line);
        }
    }
    let seconds = took.as_secs_f64().max(0.001);
    say(&format!(
        "{} seeds from {first}: {} blocks, {} commits, {:.0} simulated hours in {seconds:.1} s ({:.1} seeds/s, {:.0} simulated hours/s)",
        total.runs,
        total.blocks,
        total.commits,
        total.simulated.as_secs_f64() / 3600.0,
        total.runs as f64 / seconds,
        total.simulated.as_secs_f64() / 3600.0 / seconds,
    ));
    if arguments.unsynced {
        say(&format!(
            "{} acknowledged blocks were lost, views were made again {} times",
            total.lost_blocks, total.rebuilt_views
        ));
    }
    if arguments.coverage {
        say(&total.coverage.table());
    }
    if let Some((seed, report)) = &total.failed
        && let Some(violation) = &report.violation
    {
        say(&format!("seed {seed}: {violation}"));
        let plan = arguments.plan(*seed, Keep::Nothing);
        if !arguments.no_shrink && !arguments.trace {
            let (small, runs) = shrink(&plan, violation, run);
            say(&format!("after {runs} runs, the least that breaks it: {}", command_line(&small)));
        } else {
            say(&format!("again: {}", command_line(&plan)));
        }
        return ExitCode::FAILURE;
    }
    let unreached: usize = total.coverage.unreached().values().map(Vec::len).sum();
    if arguments.complete && unreached > 0 {
        say(&format!("{unreached} things were never reached"));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn command_line(plan: &Plan) -> String {
    let mut line = format!("cargo sim --seed {} --operations {} --trace", plan.seed, plan.operations);
    if plan.unsynced {
        line.push_str(" --unsynced");
    }
    let skip: BTreeSet<usize> = plan.skip.iter().copied().filter(|n| *n < plan.operations).collect();
    if !skip.is_empty() {
        let skip: Vec<String> = skip.iter().map(ToString::to_string).collect();
        line.push_str(&format!(" --skip {}", skip.join(",")));
    }
    if !plan.without.is_empty() {
        let without: Vec<&str> = plan.without.iter().map(|kind| kind.as_str()).collect();
        line.push_str(&format!(" --without {}", without.join(",")));
    }
    line
}

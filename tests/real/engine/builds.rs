//! Image builds on real engines.

use std::path::Path;

use narvana::engine::Error;
use tokio::sync::mpsc;

use crate::harness::{BUSYBOX, Harness, context_with, until};

pub(super) async fn failure_carries_the_last_lines(harness: Harness) {
    let dockerfile = format!("FROM {BUSYBOX}\nRUN echo before; echo oops >&2; exit 3\n");
    let (log, mut lines) = mpsc::channel(1_024);
    let built =
        harness.engine().build(context_with("localhost/narvana-test/fails:latest", &dockerfile, &[]), log).await;
    let Err(Error::BuildFailed { reason, last_lines }) = built else { panic!("{built:?}") };
    assert!(reason.contains('3'), "{reason}");
    assert!(last_lines.iter().any(|line| line == "oops") && last_lines.iter().any(|line| line == "before"));
    let mut seen = Vec::new();
    while let Some(line) = lines.recv().await {
        seen.push(line);
    }
    assert_eq!(seen, last_lines);

    let (log, _) = mpsc::channel(1);
    let unreadable = context_with("localhost/narvana-test/fails:latest", &format!("FROM {BUSYBOX}\nNONSENSE\n"), &[]);
    let built = harness.engine().build(unreadable, log).await;
    assert!(matches!(&built, Err(Error::BuildFailed { reason, .. }) if reason.contains("NONSENSE")), "{built:?}");
}

/// In both steps: what an engine does to the first one's group must not take the limit off.
pub(super) async fn processes_are_bounded(harness: Harness) {
    // Docker's limit comes when the step runs already: so many that they are not all started by then.
    let start = "i=0; while [ $i -lt 6000 ]; do sleep 300 & i=$((i+1)); done";
    let dockerfile = format!(
        "FROM {BUSYBOX}\nRUN sh -c '{start}' 2>&1 | grep -q unavailable && echo first is bounded\nRUN {start}\n"
    );
    let (log, mut lines) = mpsc::channel(1_024);
    let mut request = context_with("localhost/narvana-test/bounded:latest", &dockerfile, &[]);
    request.pids_max = Some(100);
    request.no_cache = true;
    let (built, ()) =
        tokio::join!(harness.engine().build(request, log), async { while lines.recv().await.is_some() {} });
    let Err(Error::BuildFailed { last_lines, .. }) = built else { panic!("{built:?}") };
    assert!(last_lines.iter().any(|line| line == "first is bounded"), "{last_lines:?}");
    assert!(last_lines.iter().any(|line| line.contains("Resource temporarily unavailable")), "{last_lines:?}");
    until("its control groups are gone", || async { (!groups_left(&harness.name(""))).then_some(()) }).await;
}

pub(super) async fn dropping_ends_the_running_step(harness: Harness) {
    // A number that no other process of this machine has as its argument.
    let seconds = format!("77{}", std::process::id());
    let dockerfile = format!("FROM {BUSYBOX}\nRUN sleep {seconds}\nRUN sleep {seconds}\n");
    let (log, _lines) = mpsc::channel(1_024);
    let request = context_with("localhost/narvana-test/dropped:latest", &dockerfile, &[]);
    let build = harness.engine().build(request, log);
    tokio::select! {
        built = build => panic!("{built:?}"),
        () = until("the step runs", || async { running(&seconds).then_some(()) }) => {}
    }
    until("the step is gone", || async { (!running(&seconds)).then_some(()) }).await;
    until("its control groups are gone", || async { (!groups_left(&harness.name(""))).then_some(()) }).await;
    assert!(!running(&seconds), "no further step begins");
}

/// Whether `sleep <seconds>` runs on this machine.
fn running(seconds: &str) -> bool {
    let processes = std::fs::read_dir("/proc").expect("Linux").flatten();
    let mut commands = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    commands.any(|command| command.ends_with(format!("sleep\0{seconds}\0").as_bytes()))
}

/// Whether a build of this harness still has a control group. Its scope is the middle of its names.
fn groups_left(name: &str) -> bool {
    let scope = name.trim_start_matches("nvt-").trim_end_matches('-');
    let prefix = format!("narvana-build-{scope}");
    let hierarchies = std::fs::read_dir(Path::new("/sys/fs/cgroup")).expect("cgroups").flatten();
    let mut groups = hierarchies.filter_map(|folder| std::fs::read_dir(folder.path()).ok()).flatten().flatten();
    groups.any(|group| group.file_name().to_string_lossy().starts_with(&prefix))
}

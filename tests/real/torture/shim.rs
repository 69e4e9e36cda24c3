//! A library loaded into a node that makes its disk slow and its clock wrong while it runs, and counts how often it did.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
struct control { int64_t sync_us, clock_s; uint64_t syncs, clocks; };
static struct control none, *control = &none;
static int (*real_clock)(clockid_t, struct timespec *);
__attribute__((constructor)) static void begin(void) {
    real_clock = dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("TORTURE_CONTROL");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *map = mmap(NULL, sizeof none, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map != MAP_FAILED) control = map;
    close(fd);
}
static void slow(void) {
    int64_t us = control->sync_us;
    if (us <= 0) return;
    __atomic_fetch_add(&control->syncs, 1, __ATOMIC_RELAXED);
    usleep(us); // poll: it is the disk that is slow
}
int fdatasync(int fd) {
    slow();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd);
}
int fsync(int fd) {
    slow();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
}
int clock_gettime(clockid_t id, struct timespec *at) {
    if (!real_clock) real_clock = dlsym(RTLD_NEXT, "clock_gettime");
    int rc = real_clock(id, at);
    if (rc == 0 && id == CLOCK_REALTIME && control->clock_s) {
        __atomic_fetch_add(&control->clocks, 1, __ATOMIC_RELAXED);
        at->tv_sec += control->clock_s;
    }
    return rc;
}
"#;

/// Builds the library in this folder.
pub(super) fn build(folder: &Path) -> PathBuf {
    let (source, library) = (folder.join("shim.c"), folder.join("shim.so"));
    std::fs::write(&source, SOURCE).expect("written");
    let built =
        Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl").status();
    assert!(built.expect("a C compiler is installed").success());
    library
}

/// The numbers that one node's library looks at.
pub(super) struct Control {
    pub(super) path: PathBuf,
    file: File,
}

impl Control {
    pub(super) fn new(path: PathBuf) -> Self {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).expect("a file");
        file.write_all_at(&[0; 32], 0).expect("written");
        Self { path, file }
    }

    pub(super) fn set_sync_delay(&self, millis: u64) {
        self.put(0, i64::try_from(millis * 1_000).expect("short"));
    }

    pub(super) fn set_clock(&self, seconds: i64) {
        self.put(8, seconds);
    }

    /// Syncs that were delayed, and readings of the clock that were wrong.
    pub(super) fn touched(&self) -> (u64, u64) {
        (self.count(16), self.count(24))
    }

    fn put(&self, at: u64, number: i64) {
        self.file.write_all_at(&number.to_ne_bytes(), at).expect("written");
    }

    fn count(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, at).expect("read");
        u64::from_ne_bytes(bytes)
    }
}

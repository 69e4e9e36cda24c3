//! The keeper of the store during one build: Nix's daemon, which what evaluates asks to keep and build things, and trusts with nothing.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::ChildStderr;
use tokio::time::{Instant, sleep};

use super::fence::{Entering, Fence, Fenced, NO_PROGRAM};
use super::program::{KEEPS_STORE, LINE_BYTES_MAX, Options, absent, environment, not_fenced, option};
use super::proxy::Proxy;
use super::ration::Ration;
use super::room::Room;
use crate::build::job::Failure;
use crate::model::BuildCode;
use crate::task::blocking;

/// Longest wait until it answers. It takes some 30 ms.
const ANSWERS_MAX: Duration = Duration::from_secs(30);
/// Pause before it is asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(5);

/// How it begins to say that somebody asks it.
const CAME: &str = "accepted connection from";

/// Nix's daemon, which ends with this.
pub(super) struct Store {
    fenced: Fenced,
}

impl Store {
    /// Starts it, and waits until it answers.
    pub(super) async fn open(options: &Options, room: &Room, ration: &Ration) -> Result<Self, Failure> {
        let mut words: Vec<OsString> = ["nix", "daemon"].map(OsString::from).into();
        let settings = [
            ("experimental-features", "nix-command flakes"),
            ("sandbox", "true"),
            ("sandbox-fallback", "false"),
            // Who evaluates is nobody, and may ask; whatever the machine's own settings say of others.
            ("allowed-users", "*"),
            ("trusted-users", "root"),
            // What runs on the machine is not seen from here, and what only that uses would be taken for garbage.
            ("min-free", "0"),
            // Other machines are not reached from here, but for what they serve over HTTP.
            ("builders", ""),
            ("substitute", "true"),
            ("download-attempts", "5"),
            ("connect-timeout", "20"),
        ];
        let substituters = options.substituters.as_deref().map(|value| ("substituters", value));
        settings.into_iter().chain(substituters).for_each(|(name, value)| words.extend(option(name, value)));
        let fence = Fence::of_store(room);
        let started = fence.run(Entering { program: words, has_way_out: true, ration }, |command| {
            environment(command, room, KEEPS_STORE).env("HOME", &room.of_root).env("TMPDIR", "/var/tmp");
        });
        let mut store = Self { fenced: started.await.map_err(not_fenced)? };
        store.answers(room).await?;
        Ok(store)
    }

    async fn answers(&mut self, room: &Room) -> Result<(), Failure> {
        let folder = File::open(&room.sockets).map_err(not_fenced)?;
        // By its folder, as the whole path may be longer than that of a socket may be.
        let socket = format!("/proc/self/fd/{}/nix", folder.as_raw_fd());
        let deadline = Instant::now() + ANSWERS_MAX;
        loop {
            let socket = socket.clone();
            if blocking(move || UnixStream::connect(socket).is_ok()).await {
                return Ok(());
            }
            if self.fenced.child.try_wait().map_err(not_fenced)?.is_some() {
                return Err(self.ended().await);
            }
            if Instant::now() > deadline {
                return Err(not_fenced(io::Error::other("Nix's daemon does not answer")));
            }
            sleep(ASK_AGAIN_AFTER).await;
        }
    }

    /// Keeps it going, and its way out; ends when it does.
    pub(super) async fn serve(self, proxy: &Proxy<'_>) -> Failure {
        let Self { fenced: Fenced { mut child, group, stdout, stderr, way_out } } = self;
        // It says nothing there, and ends when it cannot.
        let _stdout = stdout;
        let ended = async { tokio::join!(child.wait(), last_line(stderr)) };
        let (status, last) = tokio::select! {
            ended = ended => ended,
            never = proxy.serve(way_out) => match never {},
        };
        group.ended();
        why(status.ok().and_then(|status| status.code()), last)
    }

    async fn ended(&mut self) -> Failure {
        let last = last_line(self.fenced.stderr.take()).await;
        why(self.fenced.child.wait().await.ok().and_then(|status| status.code()), last)
    }
}

fn why(code: Option<i32>, last: String) -> Failure {
    if code == Some(NO_PROGRAM) {
        return absent();
    }
    let message = format!("Nix's daemon, which keeps the store during a build, ended: {last}");
    Failure::new(BuildCode::Infrastructure, message, "see whether Nix works on this node, and deploy again")
}

/// The last thing that it says.
async fn last_line(stderr: Option<ChildStderr>) -> String {
    let mut last = "it does not say why".to_owned();
    let Some(stderr) = stderr else { return last };
    let mut reader = BufReader::new(stderr);
    loop {
        let mut line = Vec::new();
        match (&mut reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return last,
            Ok(_) => {}
        }
        let line = String::from_utf8_lossy(&line);
        // It says of each that it came, which is no reason.
        if !line.trim().is_empty() && !line.starts_with(CAME) {
            last = line.trim().to_owned();
        }
    }
}

//! The image tests run: the machine's static busybox, all its applets, an HTTP server among them.

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use narvana::engine::{BuildNetwork, BuildRequest, Engine, Labels};
use narvana::model::{Cpu, EnvVars, Memory};
use tokio::sync::mpsc;

/// Its reference. Podman's storage outlives a run of the tests: another tag whenever the image changes.
pub(crate) const BUSYBOX: &str = "localhost/narvana-test/busybox:2";

const DOCKERFILE: &str = r#"FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN mkdir -p /www /tmp && echo "hello from narvana" > /www/index.html
ENV PATH=/bin
EXPOSE 8080
CMD ["httpd", "-f", "-p", "8080", "-h", "/www"]
"#;

/// Builds the image. The engine's cache makes that quick, and an older image of that name is replaced.
pub(super) async fn ensure(engine: &dyn Engine) {
    let busybox = std::fs::read("/bin/busybox").expect("the package busybox-static is installed");
    let (log, mut lines) = mpsc::channel(1_024);
    let request = context_with(BUSYBOX, DOCKERFILE, &[("busybox", &busybox, 0o755)]);
    let (built, ()) = tokio::join!(engine.build(request, log), async { while lines.recv().await.is_some() {} });
    built.expect("busybox is built");
}

/// A build of these files.
pub(crate) fn context_with(tag: &str, dockerfile: &str, files: &[(&str, &[u8], u32)]) -> BuildRequest {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes, mode) in [("Dockerfile", dockerfile.as_bytes(), 0o644)].iter().chain(files) {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(*mode);
        tar.append_data(&mut header, path, *bytes).expect("in memory");
    }
    let bytes = tar.into_inner().expect("in memory");
    let pieces: Vec<_> = bytes.chunks(64 * 1024).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let context: BoxStream<'static, _> = futures::stream::iter(pieces).boxed();
    BuildRequest {
        context,
        dockerfile: "Dockerfile".to_owned(),
        tag: tag.to_owned(),
        labels: Labels::new(),
        build_args: EnvVars::new(),
        cpu: Cpu::from_millis(1_500),
        memory: Memory::from_mebibytes(3_072),
        pids_max: Some(256),
        network: BuildNetwork::None,
        no_cache: false,
    }
}

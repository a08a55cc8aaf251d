//! A QEMU of our own making, which says what no real one says when one needs it.

use std::path::PathBuf;

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::UnixListener,
};

use super::*;

const GREETING: &str =
    r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}"#;
const PATIENCE: Duration = Duration::from_secs(5);

/// The server's side of one connection.
struct Server(BufReader<UnixStream>);

impl Server {
    async fn say(&mut self, line: &str) {
        self.0.get_mut().write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
    }

    /// The command's name and id.
    async fn hear(&mut self) -> (String, u64) {
        let mut line = String::new();
        self.0.read_line(&mut line).await.unwrap();
        let command: Value = serde_json::from_str(&line).unwrap();
        (command["execute"].as_str().unwrap().to_owned(), command["id"].as_u64().unwrap())
    }

    async fn open(&mut self) {
        self.say(GREETING).await;
        let (name, id) = self.hear().await;
        assert_eq!(name, "qmp_capabilities");
        self.say(&format!(r#"{{"return": {{}}, "id": {id}}}"#)).await;
    }
}

fn listen() -> (tempfile::TempDir, PathBuf, UnixListener) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qmp.sock");
    let listener = UnixListener::bind(&path).unwrap();
    (dir, path, listener)
}

async fn accept(listener: &UnixListener) -> Server {
    Server(BufReader::new(listener.accept().await.unwrap().0))
}

/// A client and a server that have greeted each other.
async fn pair() -> (Qmp, Server, tempfile::TempDir) {
    let (dir, path, listener) = listen();
    let open = async {
        let mut server = accept(&listener).await;
        server.open().await;
        server
    };
    let (qmp, server) = tokio::join!(Qmp::connect(&path, PATIENCE), open);
    (qmp.unwrap(), server, dir)
}

#[tokio::test]
async fn answers_find_their_commands_whatever_their_order_and_whatever_comes_between() {
    let (qmp, mut server, _dir) = pair().await;
    let serve = async {
        let (_, first) = server.hear().await;
        let (_, second) = server.hear().await;
        server.say(r#"{"event": "NIC_RX_FILTER_CHANGED", "data": {}, "timestamp": {}}"#).await;
        server.say(r#"{"return": {}, "id": 4711}"#).await;
        server.say(&format!(r#"{{"return": {{"status": "paused", "running": false}}, "id": {second}}}"#)).await;
        server.say(&format!(r#"{{"return": {{"status": "running", "running": true}}, "id": {first}}}"#)).await;
    };
    let (one, two, ()) = tokio::join!(biased; qmp.status(), qmp.status(), serve);
    assert_eq!((one.unwrap().as_str(), two.unwrap().as_str()), ("running", "paused"));
}

#[tokio::test]
async fn an_error_is_told_to_the_one_who_asked() {
    let (qmp, mut server, _dir) = pair().await;
    let serve = async {
        let (_, id) = server.hear().await;
        server.say(&format!(r#"{{"error": {{"class": "GenericError", "desc": "not now"}}, "id": {id}}}"#)).await;
    };
    let (status, ()) = tokio::join!(qmp.status(), serve);
    assert_eq!(status.unwrap_err().to_string(), "QEMU refused query-status: not now");
}

#[tokio::test]
async fn a_connection_that_breaks_ends_every_wait() {
    for last in [None, Some("rubbish")] {
        let (qmp, mut server, _dir) = pair().await;
        let serve = async {
            server.hear().await;
            if let Some(line) = last {
                server.say(line).await;
            }
            drop(server);
        };
        let (status, ()) = tokio::join!(qmp.status(), serve);
        assert!(matches!(status, Err(QmpError::Closed)));
        assert_eq!(qmp.shutdown().await, None);
        assert!(matches!(qmp.status().await, Err(QmpError::Closed)));
    }
}

#[tokio::test]
async fn the_reason_of_a_shutdown_is_kept_beyond_the_connection() {
    for (word, reason) in [
        ("guest-shutdown", Shutdown::Guest),
        ("host-qmp-quit", Shutdown::HostQmpQuit),
        ("host-signal", Shutdown::HostSignal),
        ("guest-panic", Shutdown::GuestPanic),
        ("subsystem-reset", Shutdown::Other("subsystem-reset".into())),
    ] {
        let (qmp, mut server, _dir) = pair().await;
        server.say(&format!(r#"{{"event": "SHUTDOWN", "data": {{"guest": true, "reason": "{word}"}}}}"#)).await;
        drop(server);
        assert_eq!(qmp.shutdown().await, Some(reason));
    }
}

#[tokio::test]
async fn quitting_may_close_the_socket_before_it_is_answered() {
    let (qmp, mut server, _dir) = pair().await;
    let serve = async {
        assert_eq!(server.hear().await.0, "quit");
        drop(server);
    };
    let (quit, ()) = tokio::join!(qmp.quit(), serve);
    quit.unwrap();
}

#[tokio::test]
async fn whoever_does_not_greet_is_not_qemu() {
    for words in [r#"{"return": {}, "id": 1}"#, "SSH-2.0-OpenSSH_9.2", ""] {
        let (_dir, path, listener) = listen();
        let serve = async {
            let mut server = accept(&listener).await;
            if !words.is_empty() {
                server.say(words).await;
            }
        };
        let (qmp, ()) = tokio::join!(Qmp::connect(&path, PATIENCE), serve);
        assert!(matches!(qmp, Err(QmpError::Malformed(_) | QmpError::Closed)), "{qmp:?}");
    }
}

#[tokio::test]
async fn an_endless_line_is_refused() {
    let (_dir, path, listener) = listen();
    let serve = async {
        let mut server = accept(&listener).await;
        let _ = server.0.get_mut().write_all(&vec![b'x'; LINE_LIMIT + 1]).await;
        server
    };
    let (qmp, _server) = tokio::join!(Qmp::connect(&path, PATIENCE), serve);
    assert!(matches!(qmp, Err(QmpError::Malformed(_))), "{qmp:?}");
}

#[tokio::test(start_paused = true)]
async fn silence_and_absence_end_with_their_own_words() {
    let (dir, path, listener) = listen();
    let (silent, _server) = tokio::join!(Qmp::connect(&path, PATIENCE), accept(&listener));
    assert!(matches!(silent, Err(QmpError::Silent(PATIENCE))), "{silent:?}");
    let absent = Qmp::connect(&dir.path().join("absent"), PATIENCE).await;
    assert!(matches!(absent, Err(QmpError::Socket { .. })), "{absent:?}");
}

#[tokio::test]
async fn dropping_the_client_closes_the_connection() {
    let (qmp, mut server, _dir) = pair().await;
    drop(qmp);
    let mut line = String::new();
    assert_eq!(server.0.read_line(&mut line).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_does_not_end_is_waited_for_only_so_long() {
    let (qmp, mut server, _dir) = pair().await;
    let serving = tokio::spawn(async move {
        loop {
            let (name, id) = server.hear().await;
            let jobs = if name == "query-jobs" { r#"[{"id": "flatten", "status": "running"}]"# } else { "{}" };
            server.say(&format!(r#"{{"return": {jobs}, "id": {id}}}"#)).await;
        }
    });
    let ended = qmp.end_jobs().await;
    assert!(matches!(ended, Err(QmpError::Silent(_))), "{ended:?}");
    serving.abort();
}

impl Qmp {
    /// Puts a layer on top whose first write fails as on a disk that is full.
    pub(in super::super) async fn add_full_layer(&self, below: &Top, file: &Path) -> Result<(), QmpError> {
        let fails = serde_json::json!([{"event": "write_aio", "errno": 28, "once": true}]);
        let image = serde_json::json!({"driver": "file", "filename": file.to_string_lossy()});
        let file = serde_json::json!({"driver": "blkdebug", "image": image, "inject-error": fails});
        let layer = serde_json::json!({"driver": "qcow2", "node-name": "disk-full", "backing": null, "file": file});
        self.ask("blockdev-add", layer, None, ANSWER).await?;
        let above = serde_json::json!({"node": below.node, "overlay": "disk-full"});
        self.ask("blockdev-snapshot", above, None, ANSWER).await.map(drop)
    }
}

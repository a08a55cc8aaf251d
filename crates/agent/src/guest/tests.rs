//! A guest agent of our own making: late, garrulous, forgetful, silent.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};

use hostler_model::kind::{OUTPUT_LIMIT, VmExecParams};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::UnixListener,
};

use super::*;

pub(crate) struct Agent {
    listener: UnixListener,
    pub(crate) guest: Arc<Guest>,
    _dir: tempfile::TempDir,
}

/// The guest's side of one connection.
pub(crate) struct Port(BufReader<UnixStream>);

impl Agent {
    pub(crate) fn new() -> Agent {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        Agent { listener: UnixListener::bind(&path).unwrap(), guest: Arc::new(Guest::new(&path)), _dir: dir }
    }

    pub(crate) async fn accept(&self) -> Port {
        Port(BufReader::new(self.listener.accept().await.unwrap().0))
    }

    /// Starts the program that is asked for, as process 7.
    async fn started(&self) -> Port {
        let mut port = self.open().await;
        port.expect("guest-exec").await;
        port.answer(json!({ "pid": 7 })).await;
        port
    }

    /// Accepts and synchronises.
    pub(crate) async fn open(&self) -> Port {
        let mut port = self.accept().await;
        port.sync().await;
        port
    }
}

impl Port {
    async fn write(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).await.unwrap();
    }

    pub(crate) async fn answer(&mut self, value: Value) {
        self.write(format!("{}\n", json!({ "return": value })).as_bytes()).await;
    }

    pub(crate) async fn refuse(&mut self, class: &str, desc: &str) {
        self.write(format!("{}\n", json!({ "error": { "class": class, "desc": desc } })).as_bytes()).await;
    }

    async fn hear(&mut self) -> Value {
        let mut line = Vec::new();
        self.0.read_until(b'\n', &mut line).await.unwrap();
        serde_json::from_slice(line.strip_prefix(b"\xff").unwrap_or(&line)).unwrap()
    }

    pub(crate) async fn expect(&mut self, command: &str) -> Value {
        let heard = self.hear().await;
        assert_eq!(heard["execute"], command);
        heard["arguments"].clone()
    }

    pub(crate) async fn sync(&mut self) {
        let id = self.expect("guest-sync-delimited").await["id"].clone();
        self.write(b"\xff").await;
        self.answer(id).await;
    }

    /// Something comes again and again, and never an answer, until the other side goes away.
    pub(crate) async fn dribble(&mut self) {
        while self.0.get_mut().write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    }

    /// Whatever comes is left unanswered, until the other side goes away.
    pub(crate) async fn ignore(&mut self) {
        let mut unanswered = Vec::new();
        self.0.read_to_end(&mut unanswered).await.unwrap();
    }
}

fn program(argv: &[&str]) -> VmExecParams {
    VmExecParams {
        argv: argv.iter().map(|word| (*word).to_owned()).collect(),
        stdin: "in".into(),
        timeout_seconds: Some(5),
    }
}

#[tokio::test]
async fn stale_bytes_of_an_earlier_client_are_passed_over() {
    let agent = Agent::new();
    let serve = async {
        let mut port = agent.accept().await;
        let id = port.expect("guest-sync-delimited").await["id"].clone();
        port.write(
            b"{\"return\": {\"pid\": 12}}\n{\"error\": {\"class\": \"GenericError\", \"desc\": \"stray\"}}\n{\"retu",
        )
        .await;
        port.write(b"\xff{\"return\": 1}\n\xff").await;
        port.answer(id).await;
        port.expect("guest-ping").await;
        port.answer(json!({})).await;
    };
    let (ping, ()) = tokio::join!(agent.guest.ping(SILENCE), serve);
    ping.unwrap();
}

#[tokio::test]
async fn a_connection_is_kept_and_a_broken_one_is_made_anew() {
    let agent = Agent::new();
    let serve = async {
        let mut port = agent.open().await;
        for _ in 0..2 {
            port.expect("guest-ping").await;
            port.answer(json!({})).await;
        }
        port.expect("guest-ping").await;
        drop(port);
        let mut port = agent.open().await;
        port.expect("guest-ping").await;
        port.answer(json!({})).await;
    };
    let pings = async {
        agent.guest.ping(SILENCE).await.unwrap();
        agent.guest.ping(SILENCE).await.unwrap();
        assert!(matches!(agent.guest.ping(SILENCE).await, Err(GuestError::Closed)));
        agent.guest.ping(SILENCE).await.unwrap();
    };
    tokio::join!(pings, serve);
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_is_late_is_waited_for_and_one_that_stays_silent_is_not() {
    let agent = Agent::new();
    let serve = async {
        // It swallows the first attempt, and answers the second.
        let lost = agent.accept().await;
        let mut port = agent.open().await;
        port.expect("guest-ping").await;
        port.answer(json!({})).await;
        (lost, port)
    };
    let (answered, _ports) = tokio::join!(agent.guest.answered(Duration::from_secs(60)), serve);
    answered.unwrap();

    let begun = Instant::now();
    let other = Agent::new();
    let silent = other.guest.answered(Duration::from_secs(3)).await;
    assert!(matches!(silent, Err(GuestError::Silent(patience)) if patience == Duration::from_secs(3)));
    assert!(begun.elapsed() < Duration::from_millis(3200), "{:?}", begun.elapsed());

    let absent = Guest::new(std::path::Path::new("/no/such.sock"));
    assert!(absent.answered(Duration::from_secs(3)).await.is_err());
    assert!(matches!(absent.ping(SILENCE).await, Err(GuestError::Socket { .. })));
}

#[tokio::test]
async fn a_program_gets_its_input_and_gives_its_output() {
    let agent = Agent::new();
    let serve = async {
        let mut port = agent.open().await;
        let exec = port.expect("guest-exec").await;
        assert_eq!(exec, json!({ "path": "cat", "arg": ["-u"], "input-data": "aW4=", "capture-output": true }));
        port.answer(json!({ "pid": 7 })).await;
        for _ in 0..2 {
            assert_eq!(port.expect("guest-exec-status").await["pid"], 7);
            port.answer(json!({ "exited": false })).await;
        }
        port.expect("guest-exec-status").await;
        let long = BASE64_STANDARD.encode(vec![b'x'; OUTPUT_LIMIT + 1]);
        port.answer(json!({ "exited": true, "exitcode": 3, "out-data": "aGk=", "err-data": long })).await;
    };
    let params = program(&["cat", "-u"]);
    let (output, ()) = tokio::join!(exec(&agent.guest, &params), serve);
    let output = output.unwrap();
    assert_eq!(
        (output.exit_code, output.signal, output.stdout.as_str(), output.stdout_truncated),
        (Some(3), None, "hi", false)
    );
    assert_eq!((output.stderr.len(), output.stderr_truncated), (OUTPUT_LIMIT, true));
}

#[tokio::test]
async fn what_was_never_started_is_told_apart_from_what_was_lost() {
    let agent = Agent::new();
    let params = program(&["nope"]);
    let refuse = async {
        let mut port = agent.open().await;
        port.expect("guest-exec").await;
        port.refuse("GenericError", "Failed to execute child process").await;
        port.expect("guest-exec").await;
        drop(port);
        drop(agent.accept().await);
    };
    let ask = async {
        assert!(matches!(exec(&agent.guest, &params).await, Err(ExecError::NotStarted(GuestError::Refused { .. }))));
        assert!(matches!(exec(&agent.guest, &params).await, Err(ExecError::Lost(GuestError::Closed))));
        assert!(matches!(exec(&agent.guest, &params).await, Err(ExecError::NotStarted(_))));
    };
    tokio::join!(ask, refuse);
}

#[tokio::test]
async fn a_program_whose_caller_goes_away_is_ended_even_before_its_pid_is_known() {
    let agent = Agent::new();
    let params = program(&["sleep", "1000"]);
    let mut port = tokio::select! {
        _ = exec(&agent.guest, &params) => panic!("nobody answered it"),
        port = async {
            let mut port = agent.open().await;
            port.expect("guest-exec").await;
            port
        } => port,
    };
    // Its caller is gone; now the pid arrives.
    port.answer(json!({ "pid": 9 })).await;
    let end = port.expect("guest-exec").await;
    assert_eq!((&end["path"], &end["arg"][3]), (&json!("sh"), &json!("9")));
    port.refuse("GenericError", "there is no sh").await;
    let end = port.expect("guest-exec").await;
    assert_eq!((&end["path"], &end["arg"]), (&json!("kill"), &json!(["-KILL", "9"])));
}

#[tokio::test(start_paused = true)]
async fn a_program_whose_time_is_up_is_ended() {
    let agent = Agent::new();
    let ended = std::sync::atomic::AtomicBool::new(false);
    let serve = async {
        let mut port = agent.open().await;
        loop {
            let heard = port.hear().await;
            match heard["execute"].as_str().unwrap() {
                "guest-exec" if heard["arguments"]["path"] == "sh" => {
                    ended.store(true, std::sync::atomic::Ordering::Relaxed);
                    port.answer(json!({ "pid": 10 })).await;
                }
                "guest-exec" => port.answer(json!({ "pid": 9 })).await,
                _ => port.answer(json!({ "exited": ended.load(std::sync::atomic::Ordering::Relaxed) })).await,
            }
        }
    };
    let params = program(&["sleep", "1000"]);
    tokio::select! {
        result = exec(&agent.guest, &params) => assert!(matches!(result, Err(ExecError::TimedOut(5)))),
        () = serve => {}
    }
    assert!(ended.load(std::sync::atomic::Ordering::Relaxed));
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_drags_out_the_start_uses_up_the_programs_time() {
    let params = program(&["true"]);
    let agent = Agent::new();
    let begun = Instant::now();
    let silent = async {
        let _port = agent.accept().await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        lost = exec(&agent.guest, &params) => assert!(matches!(lost, Err(ExecError::NotStarted(GuestError::Silent(_))))),
        () = silent => {}
    }
    assert!(begun.elapsed() < Duration::from_millis(5100), "{:?}", begun.elapsed());

    let (agent, begun) = (Agent::new(), Instant::now());
    let dragging = async {
        let mut port = agent.open().await;
        port.expect("guest-exec").await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        lost = exec(&agent.guest, &params) => assert!(matches!(lost, Err(ExecError::Lost(GuestError::Silent(_))))),
        () = dragging => {}
    }
    assert!(begun.elapsed() < Duration::from_millis(5100), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_guests_words_are_cut_and_cleaned() {
    let agent = Agent::new();
    let serve = async {
        let mut port = agent.open().await;
        port.expect("guest-ping").await;
        port.refuse(&"C".repeat(5000), &format!("\u{1b}[2J\n{}", "x".repeat(5000))).await;
        port.expect("guest-ping").await;
        port.write(format!("{{\"{}\\u001b\": 1}}\n", "y".repeat(5000)).as_bytes()).await;
        let mut port = agent.open().await;
        port.expect("guest-ping").await;
        port.write(&[b' '; SHORT_ANSWER_LIMIT + 1]).await;
        let mut rest = Vec::new();
        // The connection is closed on it.
        let _ = port.0.read_to_end(&mut rest).await;
    };
    let pings = async {
        for _ in 0..3 {
            let error = agent.guest.ping(SILENCE).await.unwrap_err();
            let text = error.to_string();
            assert!(text.chars().count() < WORDS_LIMIT + 100 && !text.contains(char::is_control), "{text}");
            if let GuestError::Refused { class, .. } = error {
                assert_eq!(class.chars().count(), WORDS_LIMIT + 1);
            } else {
                assert!(matches!(error, GuestError::Malformed(_)), "{error:?}");
            }
        }
    };
    tokio::join!(pings, serve);
}

#[tokio::test]
async fn a_long_answer_that_nobody_waits_for_any_more_is_passed_over() {
    let agent = Agent::new();
    let serve = async {
        let mut port = agent.accept().await;
        let id = port.expect("guest-sync-delimited").await["id"].clone();
        port.write(&vec![b'x'; 3 * SHORT_ANSWER_LIMIT]).await;
        port.write(b"\xff").await;
        port.answer(id).await;
        port.expect("guest-ping").await;
        port.answer(json!({})).await;
    };
    let (ping, ()) = tokio::join!(agent.guest.ping(SILENCE), serve);
    ping.unwrap();
}

#[tokio::test]
async fn an_answer_that_is_no_json_is_malformed_and_closes_the_connection() {
    let agent = Agent::new();
    let serve = async {
        let mut port = agent.open().await;
        port.expect("guest-ping").await;
        port.write(b"rubbish\n").await;
        let mut rest = Vec::new();
        port.0.read_to_end(&mut rest).await.unwrap();
    };
    let (ping, ()) = tokio::join!(agent.guest.ping(SILENCE), serve);
    assert!(matches!(ping, Err(GuestError::Malformed(_))));
}

#[tokio::test(start_paused = true)]
async fn a_freeze_whose_end_is_not_known_counts_until_a_thaw_is_answered() {
    let agent = Agent::new();
    let serve = async {
        let mut port = agent.open().await;
        port.expect("guest-fsfreeze-freeze").await;
        port.ignore().await;
        // Still writing out: not even a new connection is heard.
        agent.accept().await.ignore().await;
        let mut port = agent.open().await;
        port.expect("guest-fsfreeze-thaw").await;
        port.refuse("GenericError", "failed to unfreeze").await;
        port.expect("guest-fsfreeze-thaw").await;
        port.answer(json!(1)).await;
        port.expect("guest-fsfreeze-freeze").await;
        port.refuse("CommandNotFound", "the command is disabled").await;
        port
    };
    let ask = async {
        assert!(matches!(agent.guest.freeze().await, Err(GuestError::Silent(_))));
        assert!(agent.guest.holds());
        assert!(matches!(agent.guest.thaw().await, Err(GuestError::Silent(_))));
        assert!(matches!(agent.guest.thaw().await, Err(GuestError::Refused { .. })));
        assert!(agent.guest.holds(), "it said that it could not");
        assert_eq!(agent.guest.thaw().await.unwrap(), 1);
        assert!(!agent.guest.holds());
        assert!(agent.guest.freeze().await.is_err());
        assert!(!agent.guest.holds(), "who refuses holds nothing");
    };
    tokio::join!(ask, serve);
}

#[tokio::test(start_paused = true)]
async fn a_program_outlives_a_freeze_and_a_pause_of_its_guest() {
    let agent = Agent::new();
    let params = VmExecParams { timeout_seconds: Some(600), ..program(&["sleep", "60"]) };
    let serve = async {
        let mut port = agent.started().await;
        // Held for a snapshot: all but a few commands are refused.
        port.expect("guest-exec-status").await;
        port.refuse("CommandNotFound", "Command guest-exec-status has been disabled: the agent is in frozen state")
            .await;
        // Paused for a minute: nothing is answered, and nothing is lost.
        assert_eq!(port.expect("guest-exec-status").await["pid"], 7);
        let mut syncs = Vec::new();
        for _ in 0..6 {
            syncs.push(port.expect("guest-sync-delimited").await["id"].clone());
        }
        port.answer(json!({ "exited": true, "exitcode": 4, "out-data": "aGk=" })).await;
        for id in syncs {
            port.answer(id).await;
        }
        // Nobody ended it; the next one begins past all that.
        drop(port);
        let mut port = agent.open().await;
        port.expect("guest-ping").await;
        port.answer(json!({})).await;
    };
    let ask = async {
        let output = exec(&agent.guest, &params).await.unwrap();
        assert_eq!((output.exit_code, output.stdout.as_str()), (Some(4), "hi"));
        agent.guest.ping(SILENCE).await.unwrap();
    };
    tokio::join!(ask, serve);
}

#[tokio::test(start_paused = true)]
async fn a_look_that_a_guest_passed_over_is_taken_again_and_a_program_it_does_not_know_is_lost_and_not_ended() {
    let agent = Agent::new();
    let params = VmExecParams { timeout_seconds: Some(600), ..program(&["sleep", "60"]) };
    let serve = async {
        let mut port = agent.started().await;
        port.expect("guest-exec-status").await;
        // Its agent is another one now: it never saw the question, nor what followed while there was none.
        port.expect("guest-sync-delimited").await;
        port.sync().await;
        drop(port);
        let mut port = agent.open().await;
        port.expect("guest-exec-status").await;
        port.refuse("GenericError", "PID 7 does not exist").await;
        port.expect("guest-ping").await;
        port.answer(json!({})).await;
    };
    let ask = async {
        assert!(matches!(exec(&agent.guest, &params).await, Err(ExecError::Lost(GuestError::Refused { .. }))));
        // Whatever ends a program would have come before this.
        tokio::task::yield_now().await;
        agent.guest.ping(SILENCE).await.unwrap();
    };
    tokio::join!(ask, serve);
}

#[tokio::test(start_paused = true)]
async fn a_program_asked_for_while_the_guest_holds_its_file_systems_is_started_when_it_writes() {
    let agent = Agent::new();
    let serve = async {
        let mut port = agent.open().await;
        port.expect("guest-fsfreeze-freeze").await;
        port.answer(json!(1)).await;
        port.expect("guest-exec").await;
        port.refuse("CommandNotFound", "Command guest-exec has been disabled: the agent is in frozen state").await;
        port.expect("guest-fsfreeze-thaw").await;
        port.answer(json!(1)).await;
        port.expect("guest-exec").await;
        port.answer(json!({ "pid": 7 })).await;
        port.expect("guest-exec-status").await;
        port.answer(json!({ "exited": true, "exitcode": 0 })).await;
    };
    let ask = async {
        agent.guest.freeze().await.unwrap();
        let params = program(&["true"]);
        let thaw = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            agent.guest.thaw().await.unwrap();
        };
        let (output, ()) = tokio::join!(exec(&agent.guest, &params), thaw);
        assert_eq!(output.unwrap().exit_code, Some(0));
    };
    tokio::join!(ask, serve);
}

//! What a person at a terminal sees and presses: Ctrl-C during a wait, the choice it offers, and what happens where there
//! is no terminal. `script` of util-linux makes the terminal.

use std::{
    io::{Read, Write},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use hostler_e2e::dev::{Dev, PATIENCE, binary};

const CTRL_C: &[u8] = b"\x03";

/// The client at a terminal.
struct Terminal {
    child: Child,
    keys: ChildStdin,
    said: Arc<Mutex<String>>,
}

impl Terminal {
    fn run(dev: &Dev, words: &str) -> Result<Terminal> {
        // A terminal that says no size is none to draw on.
        let line =
            format!("stty rows 24 cols 100; exec '{}' --data '{}' {words}", binary()?.display(), dev.data().display());
        let mut child = Command::new("script")
            .args(["--quiet", "--return", "--command", &line, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("`script` of util-linux is needed")?;
        let (keys, mut screen) = (child.stdin.take().context("stdin")?, child.stdout.take().context("stdout")?);
        let said = Arc::new(Mutex::new(String::new()));
        let heard = said.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = screen.read(&mut bytes) {
                heard.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Ok(Terminal { child, keys, said })
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    fn press(&mut self, keys: &[u8]) -> Result<()> {
        Ok(self.keys.write_all(keys).and_then(|()| self.keys.flush())?)
    }

    fn until_it_says(&self, words: &str) -> Result<()> {
        let begun = Instant::now();
        while !self.said().contains(words) {
            if begun.elapsed() > PATIENCE {
                bail!("it does not say {words:?}, but\n{}", self.said());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn ended(&mut self) -> Result<ExitStatus> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if begun.elapsed() > PATIENCE {
                bail!("it does not end, and says\n{}", self.said());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A long task that a terminal waits for, and its id.
async fn waiting(dev: &mut Dev) -> Result<(Terminal, String)> {
    let terminal = Terminal::run(dev, "task submit echo --param message=x --param delay_ms=600000")?;
    let task = dev
        .until("the task runs", async |dev| {
            let (_, page) = dev.get("/api/v1/tasks?state=running").await?;
            Ok(page["items"][0]["id"].as_str().map(str::to_owned))
        })
        .await?;
    terminal.until_it_says("running")?;
    Ok((terminal, task))
}

async fn state(dev: &Dev, task: &str) -> Result<String> {
    let (_, task) = dev.get(&format!("/api/v1/tasks/{task}")).await?;
    Ok(task["state"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn ctrl_c_asks_and_c_cancels() -> Result<()> {
    let mut dev = Dev::started(&["--driver", "sim"]).await?;
    let (mut terminal, task) = waiting(&mut dev).await?;
    terminal.press(CTRL_C)?;
    terminal.until_it_says("(c)ancel it, or (l)eave it?")?;
    terminal.press(b"c")?;
    assert_eq!(terminal.ended()?.code(), Some(1), "{}", terminal.said());
    assert!(terminal.said().contains("was cancelled"), "{}", terminal.said());
    assert_eq!(state(&dev, &task).await?, "cancelled");
    Ok(())
}

#[tokio::test]
async fn a_task_that_ends_while_the_question_stands_is_shown() -> Result<()> {
    let mut dev = Dev::started(&["--driver", "sim"]).await?;
    let mut terminal = Terminal::run(&dev, "task submit echo --param message=x --param delay_ms=8000")?;
    dev.until("the task runs", async |dev| {
        let (_, page) = dev.get("/api/v1/tasks?state=running").await?;
        Ok(page["items"][0]["id"].as_str().map(str::to_owned))
    })
    .await?;
    terminal.until_it_says("running")?;
    terminal.press(CTRL_C)?;
    terminal.until_it_says("(c)ancel it, or (l)eave it?")?;
    assert_eq!(terminal.ended()?.code(), Some(0), "{}", terminal.said());
    assert!(terminal.said().contains("succeeded"), "{}", terminal.said());
    Ok(())
}

#[tokio::test]
async fn enter_and_a_second_ctrl_c_leave_the_task() -> Result<()> {
    for key in [b"\r", CTRL_C] {
        let mut dev = Dev::started(&["--driver", "sim"]).await?;
        let (mut terminal, task) = waiting(&mut dev).await?;
        terminal.press(CTRL_C)?;
        terminal.until_it_says("(c)ancel it, or (l)eave it?")?;
        terminal.press(key)?;
        assert_eq!(terminal.ended()?.code(), Some(130), "{}", terminal.said());
        assert!(terminal.said().contains(&format!("hostler task watch {task}")), "{}", terminal.said());
        assert_eq!(state(&dev, &task).await?, "running");
    }
    Ok(())
}

#[tokio::test]
async fn without_a_terminal_nobody_is_asked() -> Result<()> {
    let mut dev = Dev::started(&["--driver", "sim"]).await?;
    let child = Command::new(binary()?)
        .arg("--data")
        .arg(dev.data())
        .args(["task", "submit", "echo", "--param", "message=x", "--param", "delay_ms=600000"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let task = dev
        .until("the task runs", async |dev| {
            let (_, page) = dev.get("/api/v1/tasks?state=running").await?;
            Ok(page["items"][0]["id"].as_str().map(str::to_owned))
        })
        .await?;
    let pid = rustix::process::Pid::from_raw(child.id() as i32).context("a pid")?;
    rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("the task goes on") && said.contains(&task) && !said.contains("(c)ancel"), "{said}");
    assert_eq!(state(&dev, &task).await?, "running");
    Ok(())
}

/// What a verb prints where there is no terminal: stdout and stderr.
fn piped(dev: &Dev, words: &[&str]) -> Result<(String, String)> {
    let output = Command::new(binary()?).arg("--data").arg(dev.data()).args(words).stdin(Stdio::null()).output()?;
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    if output.status.success() { Ok((out, err)) } else { bail!("{words:?}: {}\n{err}", output.status) }
}

#[tokio::test]
async fn a_wait_tells_phases_and_what_was_written_and_draws_only_at_a_terminal() -> Result<()> {
    let dev = Dev::started(&["--driver", "sim"]).await?;
    let mut terminal = Terminal::run(&dev, "vm create seen")?;
    assert_eq!(terminal.ended()?.code(), Some(0), "{}", terminal.said());
    let said = terminal.said();
    assert!(said.contains("  | image tiny") && said.contains("  boot  ") && said.contains("\x1b[2K"), "{said:?}");

    let (result, told) = piped(&dev, &["vm", "create", "piped"])?;
    assert!(told.contains("\n  boot  ") && told.contains("  | image tiny"), "{told}");
    let (line, phase) = (told.find("  | image tiny"), told.find("  image  "));
    assert!(line < phase, "what a handler writes in a phase stands above the phase's time: {told}");
    assert!(!told.contains(['\x1b', '\r', '━']) && result.starts_with("name   piped\n"), "{told:?} {result:?}");

    let mut terminal = Terminal::run(&dev, "-o json vm create data")?;
    assert_eq!(terminal.ended()?.code(), Some(0), "{}", terminal.said());
    assert!(!terminal.said().contains("\x1b[2K"), "nothing is drawn beside JSON: {:?}", terminal.said());
    Ok(())
}

#[tokio::test]
async fn what_is_sent_has_a_bar_at_a_terminal_and_none_elsewhere() -> Result<()> {
    let dev = Dev::started(&["--driver", "sim"]).await?;
    // What the server has already is not sent.
    let file = |name: &str, byte| -> Result<String> {
        let path = dev.data().join(name);
        std::fs::write(&path, vec![byte; 32 << 20])?;
        Ok(path.display().to_string())
    };
    let disk = file("one.raw", 1)?;
    let mut terminal = Terminal::run(&dev, &format!("image import one '{disk}' --format raw"))?;
    assert_eq!(terminal.ended()?.code(), Some(0), "{}", terminal.said());
    let said = terminal.said();
    assert!(said.contains("sending") && said.contains('━') && said.contains("MiB/s"), "{said:?}");
    let (result, told) = piped(&dev, &["image", "import", "two", &file("two.raw", 2)?, "--format", "raw"])?;
    assert!(result.starts_with("two is ") && !told.contains(['\x1b', '\r', '━']), "{told:?}");
    Ok(())
}

#[tokio::test]
async fn ctrl_c_at_an_import_asks_and_c_stops_it() -> Result<()> {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let dev = Dev::started(&["--driver", "sim", "--image-source-allow", "127.0.0.0/8"]).await?;
    let mut terminal = Terminal::run(&dev, &format!("image import slow http://{}/disk", silent.local_addr()?))?;
    // The vendor has taken the call, and says nothing.
    let _held = silent.accept().await?;
    terminal.until_it_says("fetching")?;
    terminal.press(CTRL_C)?;
    terminal.until_it_says("the import of slow goes on by itself. (c)ancel it, or (l)eave it?")?;
    terminal.press(b"c")?;
    assert_eq!(terminal.ended()?.code(), Some(1), "{}", terminal.said());
    assert!(terminal.said().contains("the import of slow cancelled"), "{}", terminal.said());
    Ok(())
}

#[tokio::test]
async fn a_program_need_not_be_waited_for() -> Result<()> {
    let mut dev = Dev::started(&["--driver", "sim"]).await?;
    piped(&dev, &["vm", "create", "m"])?;
    let (begun, _) = piped(&dev, &["-o", "json", "vm", "exec", "m", "--no-wait", "--", "true"])?;
    let task: serde_json::Value = serde_json::from_str(&begun)?;
    assert_eq!(task["kind"], "vm.exec");
    assert_eq!(dev.ended_task(task["id"].as_str().context("an id")?).await?["state"], "succeeded");
    let (begun, told) = piped(&dev, &["run", "--name", "r", "--no-wait", "--", "true"])?;
    assert!(begun.contains("hostler task watch ") && told.contains("r stays"), "{begun}{told}");
    let refused = piped(&dev, &["run", "--rm", "--no-wait", "--", "true"]).unwrap_err().to_string();
    assert!(refused.contains("--ttl"), "what --rm would delete, nobody waits for: {refused}");
    Ok(())
}

#[tokio::test]
async fn an_error_is_a_document_for_a_program_and_words_for_a_person() -> Result<()> {
    let dev = Dev::started(&["--driver", "sim"]).await?;
    piped(&dev, &["vm", "create", "web"])?;
    let failed = |words: &[&str]| -> Result<(Option<i32>, String, String)> {
        let output = Command::new(binary()?).arg("--data").arg(dev.data()).args(words).output()?;
        let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Ok((output.status.code(), out, err))
    };
    let (code, out, err) = failed(&["-o", "json", "vm", "show", "wbe"])?;
    let document: serde_json::Value = serde_json::from_str(&err)?;
    assert_eq!((code, out.as_str(), &document["exit_code"]), (Some(3), "", &3.into()));
    assert_eq!((&document["code"], &document["help"]), (&"VM_NOT_FOUND".into(), &"did you mean web?".into()));
    let (_, _, err) = failed(&["-o", "json", "vm", "delete", "one", "two"])?;
    let documents = err.lines().map(serde_json::from_str::<serde_json::Value>).collect::<Result<Vec<_>, _>>()?;
    assert_eq!(documents.len(), 2, "{err}");
    let (code, _, err) = failed(&["snapshot", "show", "good", "--vm", "web"])?;
    assert!(code == Some(3) && err.starts_with("error: web has no snapshot \"good\""), "{err}");
    Ok(())
}

#[tokio::test]
async fn top_fills_the_screen_until_q_and_is_a_text_elsewhere() -> Result<()> {
    let dev = Dev::started(&["--driver", "sim"]).await?;
    let mut terminal = Terminal::run(&dev, "top")?;
    terminal.until_it_says("sim-1")?;
    terminal.press(b"q")?;
    assert_eq!(terminal.ended()?.code(), Some(0), "{}", terminal.said());
    assert!(terminal.said().ends_with("\x1b[?1049l"), "the screen of before comes back: {:?}", terminal.said());
    let text = Command::new(binary()?).arg("--data").arg(dev.data()).arg("top").output()?;
    let text = String::from_utf8(text.stdout)?;
    assert!(text.contains("sim-1") && !text.contains('\x1b'), "{text}");
    Ok(())
}

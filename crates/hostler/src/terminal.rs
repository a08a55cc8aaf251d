//! The terminal, where there is one: how large it is, and single keys from it.

use std::{
    io::{self, IsTerminal as _, Read as _},
    thread,
};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::mpsc;

/// How many characters fit in a line of stdout, if it is a terminal that says so.
pub fn width() -> Option<usize> {
    size().map(|(width, _)| width)
}

/// Columns and lines of stdout, if it is a terminal that says so.
pub fn size() -> Option<(usize, usize)> {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let size = tcgetwinsize(stdout).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col.into(), size.ws_row.into()))
}

/// Single keys, as they are pressed. Ctrl-C stays a signal. The terminal is as it was before once this value ends.
#[derive(Debug)]
pub struct Keys {
    before: Termios,
    pressed: mpsc::UnboundedReceiver<u8>,
}

impl Keys {
    /// Reads keys from now on; `None` where stdin is no terminal.
    pub fn open() -> Option<Keys> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return None;
        }
        let before = tcgetattr(&stdin).ok()?;
        let mut single = before.clone();
        single.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
        tcsetattr(&stdin, OptionalActions::Now, &single).ok()?;
        let (send, pressed) = mpsc::unbounded_channel();
        // A thread that nobody waits for: it ends with the program, which must not wait for another key.
        thread::spawn(move || {
            for byte in io::stdin().lock().bytes().map_while(Result::ok) {
                if send.send(byte).is_err() {
                    return;
                }
            }
        });
        Some(Keys { before, pressed })
    }

    /// The next key. It never comes where the terminal is gone.
    pub async fn next(&mut self) -> char {
        match self.pressed.recv().await {
            Some(byte) => char::from(byte).to_ascii_lowercase(),
            None => std::future::pending().await,
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        // A terminal that went away has no modes to give back.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

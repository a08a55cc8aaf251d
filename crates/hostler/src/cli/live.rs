//! Lists and shows that stay: `--watch` shows a result again each time it has changed.
//!
//! Events say when to look, and a slow pulse looks at what has no event, such as ages. On a terminal the text is drawn
//! over the one before; elsewhere, and for programs, each change is printed after the last.

use std::{fmt::Write as _, io, time::Duration};

use anstream::{AutoStream, ColorChoice, adapter::strip_str};
use clap::builder::FalseyValueParser;
use hostler_client::{Client, EventQuery, Events};
use serde::Serialize;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::Session;
use crate::{
    exit::{Exit, Failure},
    interrupt::{INTERRUPT, Interrupt},
    output::{self, Human, note},
    terminal,
};

/// What happens together is shown together.
const TOGETHER: Duration = Duration::from_millis(100);
/// Ages and freshness change without an event.
const PULSE: Duration = Duration::from_secs(5);
/// Before a server that is away is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// Whether a result stays.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct WatchArgs {
    /// Go on, and show it again when it has changed, until Ctrl-C
    #[arg(short, long, env = "HOSTLER_WATCH", value_parser = FalseyValueParser::new())]
    pub watch: bool,
}

/// Something that was looked at: what programs read, and what people read.
pub type Seen<T, H> = Result<(T, H), Failure>;

impl Session {
    /// Prints what is seen, once, or with `--watch` after each change. `subject` says whose events matter; without it
    /// all do.
    pub async fn view<T: Serialize, H: Human>(
        &self,
        watch: WatchArgs,
        subject: Option<Uuid>,
        look: impl AsyncFn() -> Seen<T, H>,
    ) -> Result<Exit, Failure> {
        if !watch.watch {
            let (value, text) = look().await?;
            self.print(&value, || text)?;
            return Ok(Exit::Done);
        }
        let mut interrupt = Interrupt::listen()?;
        tokio::select! {
            ended = self.stay(subject, look) => ended.map(|()| Exit::Done),
            signal = interrupt.caught() => Ok(if signal == INTERRUPT { Exit::Done } else { Exit::Signalled(signal) }),
        }
    }

    async fn stay<T: Serialize, H: Human>(
        &self,
        subject: Option<Uuid>,
        look: impl AsyncFn() -> Seen<T, H>,
    ) -> Result<(), Failure> {
        let mut changes = Changes::of(&self.client, subject);
        let mut screen = Screen::default();
        let (mut last, mut away) = (String::new(), false);
        loop {
            match look().await {
                Ok((value, text)) => {
                    let text = if self.is_data() { self.record(&value)? } else { text.text(&self.style) };
                    if text != last {
                        screen.show(&text)?;
                    }
                    (last, away) = (text, false);
                }
                Err(failure) if failure.exit == Exit::Unreachable && !last.is_empty() => {
                    if !away {
                        note("the server is away");
                    }
                    away = true;
                    sleep(AGAIN).await;
                    continue;
                }
                Err(failure) => return Err(failure),
            }
            changes.next().await;
        }
    }
}

/// When to look again.
pub struct Changes(Events);

impl Changes {
    /// Of one thing, or of all.
    pub fn of(client: &Client, subject: Option<Uuid>) -> Changes {
        Changes(client.events(EventQuery { after: None, subject }))
    }

    /// Waits for an event and for what comes with it, or for the pulse.
    pub async fn next(&mut self) {
        match timeout(PULSE, self.0.next()).await {
            Ok(Ok(_)) => while let Ok(Ok(_)) = timeout(TOGETHER, self.0.next()).await {},
            // Without events, only the pulse tells.
            Ok(Err(_)) => sleep(AGAIN).await,
            Err(_) => {}
        }
    }
}

/// A text that is drawn over the one before, where stdout is a terminal.
#[derive(Default)]
pub struct Screen {
    lines: usize,
}

impl Screen {
    /// Draws it.
    pub fn show(&mut self, text: &str) -> io::Result<()> {
        let Some((width, height)) = terminal::size() else { return output::text(text) };
        // Colours may be unwanted; what moves the cursor is needed all the same.
        let plain = AutoStream::choice(&io::stdout()) == ColorChoice::Never;
        let text = if plain { strip_str(text).to_string() } else { text.to_owned() };
        let (drawn, lines) = over(&text, self.lines, width, height);
        self.lines = lines;
        output::raw(&drawn)
    }
}

/// The text with what moves it over the last one: up by its lines, each line cleared, and what is below it too. It ends
/// where the screen does: what has scrolled away cannot be drawn over.
fn over(text: &str, before: usize, width: usize, height: usize) -> (String, usize) {
    let mut drawn = if before > 0 { format!("\x1b[{before}A\r") } else { String::new() };
    let (mut count, most) = (0, height.saturating_sub(1).max(1));
    for line in text.lines().take(most) {
        let _ = writeln!(drawn, "{}\x1b[K", console::truncate_str(line, width, "…"));
        count += 1;
    }
    drawn += "\x1b[J";
    (drawn, count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_drawn_over_the_one_before() {
        let (drawn, lines) = over("a\nbcdef\n", 3, 4, 10);
        assert_eq!((drawn.as_str(), lines), ("\x1b[3A\ra\x1b[K\nbcd…\x1b[K\n\x1b[J", 2));
    }

    #[test]
    fn what_does_not_fit_on_the_screen_is_left_out() {
        let (drawn, lines) = over("1\n2\n3\n4\n", 0, 80, 3);
        assert_eq!((drawn.matches('\n').count(), lines), (2, 2));
    }
}

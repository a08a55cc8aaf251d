//! Documentation that is a test: the `console` blocks of a Markdown page are run, and what they print must be what the
//! page shows, but for what differs from run to run (times, ids, sizes of this host).
//!
//! ```text
//! page ──blocks──► commands, one after another in one shell's folder ──► output ──plain──► the page's output, plain
//! ```
//!
//! `HOSTLER_DOCS=write` writes what was printed into the page instead. A command whose exit code is not 0 is followed by
//! a line `? CODE`. Variables live as long as the page. Blocks of other kinds (`sh`, `text`, …) are not run.

use std::{fs, path::Path, process::Command, sync::LazyLock};

use anyhow::{Context, Result, bail};
use regex::Regex;

/// How a page names the data folder.
const DATA: &str = "/home/you/.local/share/hostler";

/// One command of a page.
#[derive(Clone, PartialEq, Debug)]
struct Step {
    /// The line of the page that it stands on, from 0.
    line: usize,
    /// What is typed.
    command: String,
    /// The lines of the page that show what it prints: from, and up to but not including.
    shown: (usize, usize),
}

/// A page with its commands.
pub struct Page {
    name: String,
    lines: Vec<String>,
    steps: Vec<Step>,
}

/// What commands run with.
pub struct Shell<'a> {
    /// The folder they run in.
    pub folder: &'a Path,
    /// The folder of the binary under test: first on the PATH.
    pub bin: &'a Path,
    /// The data folder of the server that they speak to.
    pub data: &'a Path,
    /// What that server has printed: the page may show it under `$ hostler dev`.
    pub server: String,
}

impl Page {
    /// Reads a page.
    pub fn read(path: &Path) -> Result<Page> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let steps = steps(&lines);
        Ok(Page { name: path.display().to_string(), lines, steps })
    }

    /// How many commands it has.
    pub fn commands(&self) -> usize {
        self.steps.len()
    }

    /// Runs every command, and says where the page is wrong.
    pub fn check(&self, shell: &Shell<'_>) -> Result<()> {
        let mut wrong = Vec::new();
        for step in &self.steps {
            let shown = &self.lines[step.shown.0..step.shown.1];
            let printed = shell.run(&step.command)?;
            let same = match step.command.as_str() {
                "hostler dev" => shown.iter().all(|line| plain(&printed.join("\n")).contains(&plain(line))),
                _ => plain(&printed.join("\n")) == plain(&shown.join("\n")),
            };
            if !same {
                let (shown, printed) = (shown.join("\n"), printed.join("\n"));
                wrong.push(format!(
                    "{}:{}: $ {}\n--- the page shows\n{shown}\n--- it printed\n{printed}\n",
                    self.name,
                    step.line + 1,
                    step.command
                ));
            }
        }
        if wrong.is_empty() { Ok(()) } else { bail!("{}", wrong.join("\n")) }
    }

    /// Runs every command, and writes the page anew with what they print.
    pub fn write(&self, shell: &Shell<'_>, path: &Path) -> Result<()> {
        let (mut out, mut next) = (Vec::new(), 0);
        for step in &self.steps {
            out.extend_from_slice(&self.lines[next..step.shown.0]);
            let printed = shell.run(&step.command)?;
            next = step.shown.1;
            match step.command.as_str() {
                "hostler dev" => out.extend_from_slice(&self.lines[step.shown.0..step.shown.1]),
                _ => out.extend(printed),
            }
        }
        out.extend_from_slice(&self.lines[next..]);
        Ok(fs::write(path, out.join("\n") + "\n")?)
    }
}

/// The commands of a page's `console` blocks.
fn steps(lines: &[String]) -> Vec<Step> {
    let (mut steps, mut inside): (Vec<Step>, bool) = (Vec::new(), false);
    for (n, line) in lines.iter().enumerate() {
        let fence = line.trim_start().starts_with("```");
        match (fence, inside) {
            (true, _) => inside = line.trim() == "```console",
            (false, true) => match line.strip_prefix("$ ") {
                Some(command) => steps.push(Step { line: n, command: command.to_owned(), shown: (n + 1, n + 1) }),
                None => steps.last_mut().into_iter().for_each(|step| note(step, n, line)),
            },
            (false, false) => {}
        }
    }
    steps
}

/// A line below a command: `> ` continues the command, anything else is what it prints.
fn note(step: &mut Step, n: usize, line: &str) {
    match line.strip_prefix("> ").filter(|_| step.shown == (n, n)) {
        Some(more) => {
            step.command.push('\n');
            step.command.push_str(more);
            step.shown = (n + 1, n + 1);
        }
        None => step.shown.1 = n + 1,
    }
}

impl Shell<'_> {
    /// Runs one command and gives the lines it prints, both streams, as a terminal would show them.
    fn run(&self, command: &str) -> Result<Vec<String>> {
        if command == "hostler dev" {
            return Ok(self.lines(&self.server));
        }
        let path = format!("{}:{}", self.bin.display(), std::env::var("PATH").unwrap_or_default());
        let output = Command::new("bash")
            .args(["-c", &format!("exec 2>&1\nset -a; [ ! -f .shell ] || . ./.shell\n{command}\ncode=$?; export -p > .shell; exit $code")])
            .current_dir(self.folder)
            .env("PATH", path)
            .env("HOSTLER_DATA", self.data)
            .env("HOME", self.folder)
            .env("COLUMNS", "120")
            .output()?;
        let mut lines = self.lines(&String::from_utf8_lossy(&output.stdout));
        match output.status.code() {
            Some(0) => {}
            Some(code) => lines.push(format!("? {code}")),
            None => bail!("$ {command}: {}", output.status),
        }
        Ok(lines)
    }

    fn lines(&self, text: &str) -> Vec<String> {
        let text = text.replace(&self.data.display().to_string(), DATA);
        text.lines().map(|line| line.trim_end().to_owned()).collect()
    }
}

/// A text without what differs from run to run and from host to host.
fn plain(text: &str) -> String {
    static RULES: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
        [
            // A phase that takes long is named while it lasts.
            (r"(?m)^ +[a-z ]+ …\n", ""),
            (r"(?m)^(ok|warn) +kvm .*(\n +→.*)?", "KVM"),
            (r"\((tcg|kvm)(, process \d+)?\)|, (tcg|kvm)$", "ACCELERATION"),
            (r"\b\d+ free\b", "N free"),
            (r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", "ID"),
            (r"\b[0-9a-f]{64}\b", "DIGEST"),
            (r"\b[0-9a-f]{12}\b", "SHORT"),
            (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)?", "MOMENT"),
            (r"\b(\d+[smhd] ago|in \d+[smhd]|now)\b", "AGO"),
            (r"\b\d+(\.\d+)? ?(µs|ms|s)\b", "TIME"),
            (r"\b\d+ h( \d+ min)?\b", "SPAN"),
            (r"\b\d+(\.\d+)? (B|KiB|MiB|GiB|kB|MB)/s\b", "RATE"),
            (r"\b\d+/\d+( MiB| GiB)?", "SHARE"),
            (r"\b\d+(\.\d+)? (B|KiB|MiB|GiB|kB|MB)\b", "SIZE"),
            (r"\bqemu \d+\.\d+\.\d+", "qemu VERSION"),
            (r"version \d+\.\d+\.\d+[^\n]*", "version VERSION"),
            (r"\d+\.\d+\.\d+-\d+-cloud-amd64 .*", "KERNEL"),
            (r"\b(\d+) (entries|links|counters)", "N $2"),
            (r"\bentry \d+", "entry N"),
            (r"(?m)^\d+ +MOMENT", "N  MOMENT"),
            (r"(127\.0\.0\.1):\d{4,5}", "$1:PORT"),
            (r"[ \t]{2,}", "  "),
        ]
        .map(|(rule, with)| (Regex::new(rule).expect("the rule is one"), with))
        .into()
    });
    RULES.iter().fold(text.to_owned(), |text, (rule, with)| rule.replace_all(&text, *with).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn commands_are_those_of_console_blocks() {
        let page = lines("a\n```console\n$ one\n1\n$ two \\\n> more\n\n2\n$ three\n```\n```sh\n$ none\n```");
        let found: Vec<_> = steps(&page).into_iter().map(|step| (step.command, step.shown)).collect();
        assert_eq!(found, [("one".into(), (3, 4)), ("two \\\nmore".into(), (6, 8)), ("three".into(), (9, 9))]);
    }

    #[test]
    fn what_differs_from_run_to_run_is_the_same_when_plain_and_the_rest_is_not() {
        let one = "web  01a1fb8f-8720-7001-bc4f-38985189a25d  2s ago   2.0 s";
        let two = "web    01a1fb90-0000-7002-8c4f-38985189a25e  now  11 ms";
        assert_eq!(plain(one), plain(two));
        assert_ne!(plain("state  running"), plain("state  stopped"));
        assert_ne!(plain("web is deleted"), plain("db is deleted"));
    }

    #[test]
    fn a_wrong_page_and_a_wrong_exit_code_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let shell = Shell { folder: folder.path(), bin: folder.path(), data: folder.path(), server: String::new() };
        let check = |text: &str| {
            let path = folder.path().join("page.md");
            fs::write(&path, text).unwrap();
            let page = Page::read(&path).unwrap();
            let right = page.check(&shell).is_ok();
            page.write(&shell, &path).unwrap();
            Page::read(&path).unwrap().check(&shell).unwrap();
            right
        };
        assert!(check("```console\n$ echo hello\nhello\n```"));
        assert!(!check("```console\n$ echo hello\nhallo\n```"));
        assert!(!check("```console\n$ echo hello; exit 3\nhello\n```"));
        assert!(check("```console\n$ echo hello; exit 3\nhello\n? 3\n```"));
    }
}
